"""How long a training still takes."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.utils.events import EventStorage

_WINDOW = 1000
"""Iterations whose median time counts."""


class RemainingTime:
    """Estimates the time until iteration `max_iter`; None means that nobody knows the end."""

    def __init__(self, max_iter: int | None) -> None:
        self._max_iter = max_iter
        self._last: tuple[int, float] | None = None

    def at(self, storage: EventStorage) -> str:
        """Time left as ``H:MM:SS``, empty when unknown; also put as scalar ``eta_seconds``."""
        if self._max_iter is None:
            return ""
        remaining = self._max_iter - storage.iter - 1
        history = storage.histories().get("time")
        if history is not None:
            seconds = float(history.median(_WINDOW)) * remaining
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return _as_clock(seconds)
        return self._from_clock(storage.iter, remaining)

    def _from_clock(self, iteration: int, remaining: int) -> str:
        """The same from the time since the last call, for loops that do not put ``time``."""
        now = time.perf_counter()
        last, self._last = self._last, (iteration, now)
        if last is None or iteration <= last[0]:
            return ""
        return _as_clock((now - last[1]) / (iteration - last[0]) * remaining)


def _as_clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))
