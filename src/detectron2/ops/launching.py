"""Triton, as every GPU kernel of this package uses it. Importing this module imports Triton.

Kernels run on CUDA and ROCm, and on CPU tensors in Triton's interpreter (TRITON_INTERPRET=1).
They must round as the reference does wherever a result is discontinuous, so they are launched
with `EXACT`, which keeps the compiler from fusing multiplications with additions, and divide
with :func:`divide`: Triton's own division of float32 is approximate. Others say `FUSED`: what
happens where neither is said changes with Triton's versions, and 3.9 warns of it.

What the interpreter does not tell, and every kernel has to keep:

- Program numbers and lanes are int32, and a product of two int32 is one: widen before multiplying.
- A grid may be 65535 programs high and deep, but 2^31 wide: what may be long is its first axis.
- An integer argument that is 1 becomes a constant, which has no `.to`, and one that is divisible
  by 16 another kernel, which takes seconds to compile: sizes of images and counts of boxes are in
  `do_not_specialize`.
- At most 1024 threads: 32 warps on NVIDIA, 16 on AMD's MI series, whose warps are twice as wide.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["EXACT", "FUSED", "check_launch", "device_of", "divide", "real_type"]

EXACT: dict[str, Any] = {"enable_fp_fusion": False}
FUSED: dict[str, Any] = {"enable_fp_fusion": True}


def device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the device of `tensor` the one that kernels are launched on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def real_type(dtype: torch.dtype) -> tl.dtype:
    """Type of the computation for tensors of `dtype`: float64, or float32 for all others."""
    return tl.float64 if dtype == torch.float64 else tl.float32


@triton.jit
def divide(numerator, denominator):  # type: ignore[no-untyped-def]
    """Correctly rounded quotient of two blocks of float32 or float64."""
    if numerator.dtype == tl.float32:
        return tl.div_rn(numerator, denominator)
    else:
        return numerator / denominator


@triton.jit
def add_one(values):  # type: ignore[no-untyped-def]
    tl.store(values, tl.load(values) + 1)


def check_launch() -> None:
    """Launch a trivial kernel on the current GPU.

    Raises:
        Exception: of many kinds; the most frequent reason is that Triton, which builds a small
            launcher in C for every kernel, finds no C compiler.
    """
    values = torch.zeros(1, device="cuda")
    add_one[(1,)](values, **EXACT)
    if values.item() != 1:
        raise RuntimeError("a trivial Triton kernel gave a wrong result")
