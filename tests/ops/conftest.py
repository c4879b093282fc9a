"""Every contract test runs once per kernel implementation.

Ordinarily that is Numba. `test_gpu_kernels.py` starts a second pytest process in which it is
Triton: on a GPU if there is one, else on CPU tensors in Triton's interpreter, which has to be
switched on before Triton is imported.
"""

import os
from dataclasses import dataclass

import pytest
import torch

from detectron2.ops import dispatch


@dataclass(frozen=True)
class Kernel:
    """An implementation and the device type of the tensors it takes."""

    implementation: str
    device: str

    @property
    def is_interpreted(self) -> bool:
        return self.implementation == "triton" and self.device == "cpu"

    def active(self):
        return dispatch.use_implementation(self.implementation)


def kernel_under_test() -> Kernel:
    if os.environ.get("DETECTRON2_TEST_KERNELS") != "triton":
        return Kernel("numba", "cpu")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return Kernel("triton", "cpu" if interpreted else "cuda")


@pytest.fixture(params=[kernel_under_test()], ids=lambda kernel: f"kernel_{kernel.implementation}")
def kernel(request) -> Kernel:
    return request.param


@pytest.fixture(params=[0, 1, 7, 1000])
def count(request, kernel) -> int:
    """Ugly numbers of boxes. The interpreter takes a millisecond per box."""
    return min(request.param, 40) if kernel.is_interpreted else request.param


@pytest.fixture(params=[torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(params=["contiguous", "channels_last", "strided"])
def memory(request) -> str:
    """Memory layout of feature maps; see `ops_contract.laid_out`."""
    return request.param
