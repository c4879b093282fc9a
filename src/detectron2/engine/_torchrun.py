"""Meeting the other processes that torchrun has started, also after a restart."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

__all__ = ["join_this_start", "name_of_this_start"]

_PAUSE = 0.02  # seconds between two looks at the store


def join_this_start(backend: str, timeout: timedelta) -> None:
    """Make the process group of the processes that were started together with this one.

    torchrun keeps one store over its restarts: a process may read in it where another one listened
    that was killed, and wait for it. So every start has its own part of the store. Counts of
    restarts do not name it, because they differ between machines.

    Raises:
        RuntimeError: another process has not come within `timeout`.
    """
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    name = name_of_this_start(dist.PrefixStore("starts", store), rank, size, timeout)
    dist.init_process_group(
        backend=backend,
        store=dist.PrefixStore(f"start {name}", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )


def name_of_this_start(store: dist.Store, rank: int, size: int, timeout: timedelta) -> str:
    """A name that the processes of this start agree on and that no earlier one had.

    Rank 0 invents it and answers everyone who asks, until all have heard it. Questions that an
    earlier start has left are answered as well, and nobody reads the answers.

    Args:
        store: shared by all processes; it may hold what earlier starts have left.
        rank: of this process.
        size: number of processes.
        timeout: for all of them to come.

    Raises:
        RuntimeError: another process has not come within `timeout`.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        _tell_everyone(store, own, size, timeout)
        return own
    store.set(f"question of {rank}", own)
    try:
        store.wait([f"answer to {own}"], timeout)
    except RuntimeError as error:
        raise RuntimeError(f"Rank 0 has not come within {timeout}.") from error
    name = store.get(f"answer to {own}").decode()
    store.set(f"{name} is known to {rank}", "")
    return name


def _tell_everyone(store: dist.Store, name: str, size: int, timeout: timedelta) -> None:
    deadline = time.monotonic() + timeout.total_seconds()
    unaware = list(range(1, size))
    while True:
        unaware = [rank for rank in unaware if not store.check([f"{name} is known to {rank}"])]
        if not unaware:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"The processes of rank {unaware} have not come within {timeout}.")
        for rank in unaware:
            if store.check([f"question of {rank}"]):
                question = store.get(f"question of {rank}").decode()
                store.set(f"answer to {question}", name)
        time.sleep(_PAUSE)
