"""Many images through one model: work ahead of it, and batches of one shape."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

__all__ = ["map_in_batches", "prefetched"]

T = TypeVar("T")
R = TypeVar("R")

# How many batches' worth of items are looked at to find some of one shape.
_WINDOW_IN_BATCHES = 4


class _End:
    """Last thing in the queue: the source is exhausted, or raised `error`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetched(source: Iterable[T], depth: int = 4) -> Iterator[T]:
    """The items of `source`, which a thread of its own gets up to `depth` items ahead.

    An exception of the source is raised where its item would have come. A caller that stops
    early ends the thread too.

    Args:
        source: read in the other thread.
        depth: items that may wait.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in source:
                if not put(item):
                    return
            put(_End())
        except BaseException as error:  # raised again in the thread that consumes
            put(_End(error))

    threading.Thread(target=produce, name="detectron2-prefetch", daemon=True).start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()


def map_in_batches(
    function: Callable[[list[T]], Sequence[R]],
    items: Iterable[T],
    key: Callable[[T], Hashable],
    batch_size: int,
) -> Iterator[R]:
    """``function`` of every item, in the order of the items, computed in batches of equal `key`.

    Args:
        function: takes up to `batch_size` items of one key, returns one result for each.
        items: consumed a few batches ahead of the results.
        key: what the items of a batch must have in common.
        batch_size: at least 1.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; use at least 1.")
    window: list[tuple[int, T]] = []
    done: dict[int, R] = {}
    next_index = 0
    source = enumerate(items)
    exhausted = False
    while window or not exhausted:
        while not exhausted and len(window) < _WINDOW_IN_BATCHES * batch_size:
            pair = next(source, None)
            exhausted = pair is None
            if pair is not None:
                window.append(pair)
        if not window:
            break
        # The oldest item is always in the batch, so that nothing waits for ever.
        wanted = key(window[0][1])
        batch = [pair for pair in window if key(pair[1]) == wanted][:batch_size]
        indices = [index for index, _ in batch]
        window = [pair for pair in window if pair[0] not in indices]
        results = function([item for _, item in batch])
        done.update(zip(indices, results, strict=True))
        while next_index in done:
            yield done.pop(next_index)
            next_index += 1
