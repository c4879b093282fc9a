"""Images of many requests through one model: a bounded queue, and a thread that empties it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["BatchRunner", "QueueFullError"]

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


class QueueFullError(RuntimeError):
    """There is no room for another item.

    Attributes:
        retry_after: seconds, whole, after which there should be.
    """

    def __init__(self, length: int, retry_after: int) -> None:
        super().__init__(f"{length} images are waiting, and there is no room for more.")
        self.retry_after = retry_after


@dataclass
class _Waiting(Generic[T, R]):
    item: T
    key: Hashable
    future: Future[R] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class BatchRunner(Generic[T, R]):
    """Runs a function on items that come one by one, on as many at once as can be had.

    The oldest item is always in the next batch, together with those of the same key. Nothing
    else may call the function meanwhile, so it need not be thread-safe.
    """

    def __init__(
        self,
        function: Callable[[list[T]], Sequence[R]],
        key: Callable[[T], Hashable],
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """
        Args:
            function: takes up to `max_batch` items of one key, returns one result for each.
            key: what the items of a batch must have in common.
            max_wait: seconds that an item waits for others.
            max_queue: items that wait at most.
            on_batch: called after each batch with its size and seconds.
        """
        self._function = function
        self._key = key
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_per_item = 0.0
        self._thread = threading.Thread(target=self._loop, name="detectron2-batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._closed

    def submit(self, item: T) -> Future[R]:
        """Queue an item. Cancelling the future takes it out as long as it waits.

        Raises:
            QueueFullError: as many wait as may.
            RuntimeError: the runner is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("The server is stopping and takes no more images.")
            if len(self._waiting) >= self._max_queue:
                self._waiting = deque(w for w in self._waiting if not w.future.cancelled())
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError(len(self._waiting), self._seconds_until_room())
            waiting: _Waiting[T, R] = _Waiting(item, self._key(item))
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _seconds_until_room(self) -> int:
        return max(1, math.ceil(len(self._waiting) * self._seconds_per_item))

    def _loop(self) -> None:
        while (batch := self._next_batch()) is not None:
            # False: whoever waited has given up.
            batch = [w for w in batch if w.future.set_running_or_notify_cancel()]
            if not batch:
                continue
            start = time.monotonic()
            self._run(batch)
            seconds = time.monotonic() - start
            share = seconds / len(batch)
            self._seconds_per_item += 0.2 * (share - self._seconds_per_item)
            self._on_batch(len(batch), seconds)

    def _next_batch(self) -> list[_Waiting[T, R]] | None:
        """The oldest item and others of its key; None when the runner is closed and empty."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            first = self._waiting[0]
            until = first.since + self._max_wait
            while not self._closed and self._count(first.key) < self._max_batch:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch: list[_Waiting[T, R]] = []
            others: deque[_Waiting[T, R]] = deque()
            for each in self._waiting:
                fits = each.key == first.key and len(batch) < self._max_batch
                (batch if fits else others).append(each)
            self._waiting = others
            return batch

    def _count(self, key: Hashable) -> int:
        return sum(each.key == key for each in self._waiting)

    def _run(self, batch: list[_Waiting[T, R]]) -> None:
        try:
            results = self._function([each.item for each in batch])
            if len(results) != len(batch):
                raise RuntimeError(
                    f"The model gave {len(results)} results for {len(batch)} images."
                )
        except Exception as error:
            if len(batch) == 1:
                logger.exception("The model failed on an image.")
                batch[0].future.set_exception(error)
                return
            # One image that the model cannot take must not fail those beside it.
            for each in batch:
                self._run([each])
            return
        for each, result in zip(batch, results):
            each.future.set_result(result)
