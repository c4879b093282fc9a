"""Loops whose length depends on values, in plain Python and in traced graphs."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["no_torchscript_warnings", "scripted"]

Function = TypeVar("Function", bound=Callable[..., torch.Tensor])


@contextmanager
def no_torchscript_warnings() -> Iterator[None]:
    """Within this block PyTorch does not say that TorchScript is deprecated.

    It is a DeprecationWarning in torch 2.13, and a FutureWarning, which users see, from 2.14 on.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.\w+. is deprecated")
        yield


@functools.cache
def scripted(function: Function) -> Function:
    """TorchScript version of a function, so that `torch.jit.trace` records its loop as a loop."""
    with no_torchscript_warnings():
        return torch.jit.script(function)
