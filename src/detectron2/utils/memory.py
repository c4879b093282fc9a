"""Recovery from a full GPU."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = ["retry_if_cuda_oom"]

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)


@contextmanager
def _ignore_torch_cuda_oom() -> Iterator[None]:
    """Swallow PyTorch's out-of-memory error and nothing else."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        return
    except RuntimeError as error:
        # Libraries below PyTorch (cuBLAS, older custom kernels) only say so in words.
        if "CUDA out of memory" not in str(error):
            raise


def _to_cpu(value: Any) -> Any:
    is_gpu_tensor = getattr(getattr(value, "device", None), "type", None) == "cuda"
    return value.to(device="cpu") if is_gpu_tensor and hasattr(value, "to") else value


def retry_if_cuda_oom(func: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that it survives a full GPU.

    When `func` runs out of GPU memory, the cache of the allocator is emptied and `func` runs
    again; when that fails too, `func` runs once more with its GPU arguments copied to the CPU.
    Only direct arguments are moved (not tensors inside a list or dictionary), so the result
    may live on the CPU. `func` must not change its arguments, and must not be stateful.
    """

    @functools.wraps(func)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with _ignore_torch_cuda_oom():
            return func(*args, **kwargs)
        torch.cuda.empty_cache()
        with _ignore_torch_cuda_oom():
            return func(*args, **kwargs)
        name = getattr(func, "__qualname__", repr(func))
        logger.info("GPU memory is full: %s runs on copies of its inputs on the CPU.", name)
        cpu_args: Any = [_to_cpu(value) for value in args]
        cpu_kwargs: Any = {key: _to_cpu(value) for key, value in kwargs.items()}
        return func(*cpu_args, **cpu_kwargs)

    return wrapped
