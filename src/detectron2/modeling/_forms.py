"""The one place that chooses between the two forms of a function.

What depends on how many positives, samples or boxes there are can be written in two ways. The
*counted* form asks for the number and goes on with exactly those rows; on a CPU this is least
work. On a GPU the host would wait for each number, and the device then has nothing to do. The
*fixed* form keeps shapes that are known beforehand, and masks say which rows count.

A function that has both is defined as its counted form and names the fixed one::

    @in_two_forms(fixed=_rows_by_sorting)
    def rows_of_masks(masks): ...

Neither of the two, nor who calls it, looks at devices.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from detectron2.structures import Boxes, Instances, RotatedBoxes
from detectron2.utils._deferred import is_remote_device

__all__ = ["fixed_form", "in_two_forms", "runs_in_fixed_form"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Override(threading.local):
    """What this thread asked for."""

    fixed: bool | None = None


_OVERRIDE = _Override()


def runs_in_fixed_form(device: torch.device) -> bool:
    """Whether functions run their fixed form on tensors of `device`: where the host would wait
    for a number from it, unless `fixed_form` says otherwise."""
    return is_remote_device(device) if _OVERRIDE.fixed is None else _OVERRIDE.fixed


@contextmanager
def fixed_form(wanted: bool | None) -> Iterator[None]:
    """Within this block and thread run the fixed form (True), the counted one (False), or what
    suits the device (None)."""
    before = _OVERRIDE.fixed
    _OVERRIDE.fixed = wanted
    try:
        yield
    finally:
        _OVERRIDE.fixed = before


def in_two_forms(
    *, fixed: Callable[..., Any], skips: Sequence[Callable[..., Any]] = ()
) -> Callable[[_Function], _Function]:
    """Decorator of a counted form; the first tensor among its arguments decides.

    Args:
        fixed: takes the same arguments and returns the same values, or the same in law where
            they are random; or NotImplemented, where it has no such form of something that it
            was given, and then the counted form runs.
        skips: of a method, the steps that it calls and `fixed` does not. Where a subclass or
            an object has its own, the counted form runs, and with it that step.

    """

    def decorate(counted: _Function) -> _Function:
        @functools.wraps(counted)
        def run(*args: Any, **kwargs: Any) -> Any:
            tensor = _first_tensor(args)
            suits = tensor is not None and runs_in_fixed_form(tensor.device)
            if suits and _has_all(args[0], skips):
                result = fixed(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            return counted(*args, **kwargs)

        return run  # type: ignore[return-value]

    return decorate


def _has_all(owner: Any, steps: Sequence[Callable[..., Any]]) -> bool:
    """Whether the methods of `owner` with the names of `steps` are those steps."""
    return all(getattr(getattr(owner, step.__name__), "__func__", None) is step for step in steps)


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (Boxes, RotatedBoxes)):
        return value.tensor
    if isinstance(value, Instances):
        value = list(value.get_fields().values())
    parts = value if isinstance(value, (tuple, list)) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)
