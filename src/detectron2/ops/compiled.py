"""Numba, as every CPU kernel of this package uses it. Importing this module imports Numba."""

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba.extending import intrinsic
from torch import Tensor

__all__ = ["as_array", "compiled", "float_of_bits", "multiply_add"]

logger = logging.getLogger(__name__)


def compiled(
    *, fused: bool = False, reordered: bool = False, inlined: bool = False
) -> Callable[[Callable[..., Any]], Any]:
    """Compile a kernel when it is first called, and keep the machine code on disk.

    The kernel runs without the interpreter lock. Division by zero gives inf or NaN as in
    NumPy, not an exception, so that loops vectorise.

    Args:
        fused: multiply-adds may be fused: faster, but the last bit differs from PyTorch.
        reordered: sums may be added up in any order, so that they vectorise.
        inlined: becomes part of its callers however long it is, so that their loops vectorise.
    """
    # Said explicitly also when it is off: a function compiled on behalf of a fused caller
    # inherits the option otherwise, and is cached that way.
    options: dict[str, Any] = {
        "nogil": True,
        "forceinline": inlined,
        "error_model": "numpy",
        "fastmath": {"contract"} | ({"reassoc"} if reordered else set()) if fused else False,
    }

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            # No writable cache directory: neither beside the package nor in the home.
            _report_no_cache(str(error))
            return numba.njit(**options)(function)

    return decorate


_reported = False


def _report_no_cache(problem: str) -> None:
    global _reported
    if not _reported:
        _reported = True
        logger.warning(
            "CPU kernels compile anew in every process, about a second each (%s). Set "
            "NUMBA_CACHE_DIR to a writable folder.",
            problem,
        )


def _multiply_add(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c, rounded once; three numbers of one floating point type. Only in kernels."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fma(*arguments)

    return a(a, a, a), generate


multiply_add: Any = intrinsic(_multiply_add)


def _float_of_bits(typingctx, bits):  # type: ignore[no-untyped-def]
    """The float32 whose bits are those of an int32. Only in kernels."""
    from llvmlite import ir

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.FloatType())

    return numba.float32(numba.int32), generate


float_of_bits: Any = intrinsic(_float_of_bits)


def as_array(tensor: Tensor, dtype: torch.dtype | None = None) -> np.ndarray[Any, Any]:
    """C-contiguous NumPy array of a CPU tensor, sharing memory where no copy is needed."""
    tensor = tensor.detach()
    if dtype is not None:
        tensor = tensor.to(dtype)
    return tensor.contiguous().numpy()
