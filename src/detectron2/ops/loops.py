"""Loops whose length depends on values, in plain Python and in traced graphs."""

import functools
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["scripted"]

Function = TypeVar("Function", bound=Callable[..., torch.Tensor])


@functools.cache
def scripted(function: Function) -> Function:
    """TorchScript version of a function, so that `torch.jit.trace` records its loop as a loop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
        return torch.jit.script(function)
