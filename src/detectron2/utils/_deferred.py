"""Questions to a device whose answers can wait, so that the host does not.

Reading a number from a GPU makes the host wait until everything before it is computed. Numbers that
are only logged, and checks that only ever end a step, are kept as tensors and read together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Check",
    "DeferredScalars",
    "check_later",
    "collected_checks",
    "defer",
    "fetch",
    "fetch_ahead",
    "is_remote",
    "is_remote_device",
    "put_scalars_later",
    "settle",
]

_MOST_DEFERRED = 1000
"""For a program that never asks for its scalars."""

ScalarsOf = Callable[[list[float]], Mapping[str, float]]


def is_remote(tensor: Tensor) -> bool:
    """Whether the host would wait for the numbers of `tensor`."""
    return is_remote_device(tensor.device)


def is_remote_device(device: torch.device) -> bool:
    """Whether the host would wait for numbers from `device`."""
    return device.type != "cpu" and _has_float64(device)


def _has_float64(device: torch.device) -> bool:
    # Numbers are kept in it. The GPUs of Apple and some of Intel have none: there the host waits.
    return device.type not in ("mps", "xpu")


def fetch(tensors: Sequence[Tensor]) -> list[list[float]]:
    """The numbers of many small tensors of one device by one copy, and one wait, for all."""
    if not tensors:
        return []
    real = torch.float64 if _has_float64(tensors[0].device) else torch.float32
    return _divided(torch.cat([x.detach().reshape(-1).to(real) for x in tensors]), tensors)


def fetch_ahead(
    tensors: Sequence[Tensor], cuda: Any = torch.cuda
) -> Callable[[], list[list[float]]]:
    """`fetch` in two steps: what is returned waits for a GPU to do what it was asked for until now.

    `fetch` would also wait for what it is asked for in between.

    Args:
        cuda: what has the streams; tests bring their own.
    """
    if not tensors or (tensors[0].device.type != "cuda" and cuda is torch.cuda):
        return functools.partial(fetch, tensors)
    numbers = torch.cat([x.detach().reshape(-1).to(torch.float64) for x in tensors])
    # Only into pinned memory is copied while the host goes on.
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=numbers.is_cuda)
    host.copy_(numbers, non_blocking=True)
    copied = cuda.current_stream(numbers.device).record_event()

    def read() -> list[list[float]]:
        copied.synchronize()
        return _divided(host, tensors)

    return read


def _divided(numbers: Tensor, tensors: Sequence[Tensor]) -> list[list[float]]:
    flat = iter(numbers.tolist())
    return [[next(flat) for _ in range(tensor.numel())] for tensor in tensors]


# ---- scalars that are only logged


@dataclass(frozen=True)
class DeferredScalars:
    """Scalars of an `EventStorage` that follow from numbers on a device.

    Attributes:
        numbers: a copy of them, float64.
        scalars_of: from the numbers, in order, to scalars by name.
        iteration: that they belong to.
        prefix: of the names.
        smoothing_hint: see `EventStorage.put_scalar`.
    """

    numbers: Tensor
    scalars_of: ScalarsOf
    iteration: int
    prefix: str
    smoothing_hint: bool


def put_scalars_later(storage: Any, numbers: Tensor, scalars_of: ScalarsOf) -> None:
    """Put scalars that follow from numbers on a device, without waiting for it.

    Args:
        storage: an `EventStorage`.
        numbers: (N,), copied. On a CPU the scalars are put at once.
        scalars_of: from the N numbers to scalars by name; called when somebody asks for scalars,
            as writers do every few iterations.
    """
    if is_remote(numbers):
        defer(storage, numbers, scalars_of, storage.iter, storage._prefix, True)
    else:
        storage.put_scalars(**scalars_of(numbers.tolist()))


def defer(storage: Any, numbers: Tensor, *rest: Any) -> None:
    """Append `DeferredScalars` of a copy of `numbers` and the `rest` of their attributes."""
    copy = numbers.detach().to(torch.float64, copy=True)
    storage._deferred.append(DeferredScalars(copy, *rest))
    if len(storage._deferred) >= _MOST_DEFERRED:
        settle(storage)


def settle(storage: Any) -> None:
    """Put what was deferred; one wait for all of it."""
    deferred, storage._deferred = storage._deferred, []
    for scalars, numbers in zip(deferred, fetch([x.numbers for x in deferred]), strict=True):
        for name, value in scalars.scalars_of(numbers).items():
            storage._put(scalars.prefix + name, value, scalars.smoothing_hint, scalars.iteration)


# ---- checks that only ever end a step


@dataclass(frozen=True)
class Check:
    """Something that must not be: `error` of `count` (), if it is not 0."""

    count: Tensor
    error: Callable[[int], Exception]

    def answer(self, count: float) -> None:
        if count:
            raise self.error(int(count))


_CHECKS: ContextVar[list[Check] | None] = ContextVar("checks of this step", default=None)


@contextmanager
def collected_checks(checks: list[Check]) -> Iterator[None]:
    """`check_later` appends to `checks` in the block; whoever opens it asks for the answers."""
    token = _CHECKS.set(checks)
    try:
        yield
    finally:
        _CHECKS.reset(token)


def check_later(count: Tensor, error: Callable[[int], Exception]) -> None:
    """Raise ``error(count)`` unless the count is 0: now, or when `collected_checks` are answered.

    Args:
        count: (), of what is wrong.
    """
    checks = _CHECKS.get()
    if checks is None or not is_remote(count):
        Check(count, error).answer(count.item())
    else:
        checks.append(Check(count.detach(), error))
