"""Split a CPU kernel over threads.

Numba's own ``parallel=True`` aborts the process when two Python threads enter it, which a
server does, and its workers do not survive a fork. Kernels here release the interpreter lock
instead, and are cut into blocks that a small pool of Python threads takes one by one.
"""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

__all__ = ["parallel_for"]

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    """After a fork the threads of the parent do not exist in the child, nor does a held lock."""
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _helpers(count: int) -> ThreadPoolExecutor:
    """A pool of at least `count` threads. A smaller one is left to finish what it has."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < count:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool = ThreadPoolExecutor(count, thread_name_prefix="detectron2-ops")
            _pool_size = count
        return _pool


def parallel_for(work: Callable[[int, int], None], total: int, block: int) -> None:
    """Call ``work(start, stop)`` on blocks that cover ``range(total)``, on several threads.

    Uses ``torch.get_num_threads()`` threads, the calling one among them: it works too, so
    callers that share the pool cannot wait for one another.

    Args:
        work: releases the interpreter lock, and writes to other memory for other blocks.
        total: number of items.
        block: items per call, large enough to hide 50 microseconds of hand-over.
    """
    blocks = -(-total // block)
    threads = min(torch.get_num_threads(), blocks)
    if threads <= 1:
        if total > 0:
            work(0, total)
        return
    counter = itertools.count()  # next() is atomic: every block is taken once

    def take_blocks() -> None:
        while (index := next(counter)) < blocks:
            work(index * block, min(total, (index + 1) * block))

    helpers = _submit(take_blocks, threads - 1)
    try:
        take_blocks()
    finally:
        # A helper that has not begun finds nothing left to do: do not wait for its turn.
        begun = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in begun]
    for error in errors:
        if error is not None:
            raise error


def _submit(task: Callable[[], None], count: int) -> list[Future[None]]:
    while True:
        pool = _helpers(count)
        try:
            return [pool.submit(task) for _ in range(count)]
        except RuntimeError:
            # Another thread replaced this pool by a larger one in between; or the interpreter
            # is shutting down, and then the caller does all the work.
            if pool is _pool:
                return []
