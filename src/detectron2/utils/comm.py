"""Collective communication that also works without a process group.

Every function here must be called by all processes of the group, unless it says otherwise.
The module's globals may be replaced by projects that start their processes themselves.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

__all__ = [
    "all_gather",
    "create_local_process_group",
    "gather",
    "get_local_process_group",
    "get_local_rank",
    "get_local_size",
    "get_rank",
    "get_world_size",
    "is_main_process",
    "reduce_dict",
    "shared_random_seed",
    "synchronize",
]

_LOCAL_PROCESS_GROUP: Any = None
"""Group of the processes of this machine; None until somebody creates it."""

_MISSING_LOCAL_PG_ERROR = (
    "The processes of this machine have no group of their own. Start the program with "
    "detectron2.engine.launch() or torchrun, or call "
    "detectron2.utils.comm.create_local_process_group() after init_process_group()."
)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes; 1 without a process group. Not a collective call."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Number of this process, 0 without a process group. Not a collective call."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Whether this process has rank 0. Not a collective call."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create one group per machine; a later call with the same number does nothing.

    Ranks are expected to be consecutive on a machine, as `launch` and torchrun number them.

    Raises:
        RuntimeError: there is no process group at all, or a local group of another size.
        ValueError: the world cannot be divided into machines of that size.
    """
    global _LOCAL_PROCESS_GROUP
    if not _is_distributed():
        raise RuntimeError("Call torch.distributed.init_process_group() before this function.")
    if _LOCAL_PROCESS_GROUP is not None:
        size = dist.get_world_size(_LOCAL_PROCESS_GROUP)
        if size == num_workers_per_machine:
            return
        raise RuntimeError(
            f"The processes of this machine have a group of {size} already; it cannot be "
            f"replaced by one of {num_workers_per_machine}."
        )
    world_size = get_world_size()
    if num_workers_per_machine < 1 or world_size % num_workers_per_machine != 0:
        raise ValueError(
            f"{world_size} processes cannot be divided into machines with "
            f"{num_workers_per_machine} processes each."
        )
    own_machine = get_rank() // num_workers_per_machine
    for machine in range(world_size // num_workers_per_machine):
        first = machine * num_workers_per_machine
        # Every process takes part in making every group, also of those it is not in.
        group = dist.new_group(list(range(first, first + num_workers_per_machine)))
        if machine == own_machine:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> Any:
    """Group of the processes of this machine. Not a collective call.

    Raises:
        RuntimeError: nobody created it.
    """
    if _LOCAL_PROCESS_GROUP is None:
        raise RuntimeError(_MISSING_LOCAL_PG_ERROR)
    return _LOCAL_PROCESS_GROUP


def _local_number(variable: str) -> int:
    """A number that torchrun put into the environment, for programs without a local group."""
    value = os.environ.get(variable)
    if value is None:
        raise RuntimeError(_MISSING_LOCAL_PG_ERROR)
    return int(value)


def get_local_rank() -> int:
    """Number of this process among those of its machine. Not a collective call.

    Raises:
        RuntimeError: several processes run, but none of them made a local group.
    """
    if not _is_distributed():
        return 0
    if _LOCAL_PROCESS_GROUP is None:
        return _local_number("LOCAL_RANK")
    return dist.get_rank(group=_LOCAL_PROCESS_GROUP)


def get_local_size() -> int:
    """Number of processes on this machine. Not a collective call.

    Raises:
        RuntimeError: several processes run, but none of them made a local group.
    """
    if not _is_distributed():
        return 1
    if _LOCAL_PROCESS_GROUP is None:
        return _local_number("LOCAL_WORLD_SIZE")
    return dist.get_world_size(group=_LOCAL_PROCESS_GROUP)


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # Without a device NCCL guesses one from the rank, which is wrong on other layouts.
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache(maxsize=1)
def _cpu_group_of(world: Any) -> Any:
    """Group over the same processes as `world` that carries pickled objects through the CPU."""
    if dist.get_backend(world) == "nccl":
        return dist.new_group(backend="gloo")
    return world


def all_gather(data: Any, group: Any = None) -> list[Any]:
    """Objects of all processes in the order of their ranks, on every process.

    Args:
        data: anything that can be pickled.
        group: process group; None means all processes, through CPU memory.
    """
    if get_world_size() == 1:
        return [data]
    group = _cpu_group_of(dist.group.WORLD) if group is None else group
    size = dist.get_world_size(group)
    if size == 1:
        return [data]
    received: list[Any] = [None] * size
    dist.all_gather_object(received, data, group=group)
    return received


def gather(data: Any, dst: int = 0, group: Any = None) -> list[Any]:
    """Objects of all processes in the order of their ranks, on process `dst`.

    Args:
        data: anything that can be pickled.
        dst: global rank of the receiver.
        group: process group; None means all processes, through CPU memory.

    Returns:
        The objects on `dst`, an empty list elsewhere.
    """
    if get_world_size() == 1:
        return [data]
    group = _cpu_group_of(dist.group.WORLD) if group is None else group
    size = dist.get_world_size(group)
    if size == 1:
        return [data]
    if dist.get_rank() != dst:
        dist.gather_object(data, None, dst=dst, group=group)
        return []
    received: list[Any] = [None] * size
    dist.gather_object(data, received, dst=dst, group=group)
    return received


def shared_random_seed() -> int:
    """Random number below 2**31 that is the same on every process, drawn by rank 0 from NumPy."""
    return all_gather(int(np.random.randint(2**31)))[0]


def reduce_dict(
    input_dict: dict[str, torch.Tensor], average: bool = True
) -> dict[str, torch.Tensor]:
    """Sum or average scalars over the processes, onto rank 0.

    Args:
        input_dict: scalar tensors, under the same keys on every process.
        average: divide the sums by the number of processes.

    Returns:
        The same keys, detached; only the values on rank 0 are complete. A single process gets
        `input_dict` itself.
    """
    world_size = get_world_size()
    if world_size == 1:
        return input_dict
    names = sorted(input_dict)  # one order on every process, whatever the insertion order
    with torch.no_grad():
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and get_rank() == 0:
            values /= world_size
    return dict(zip(names, values, strict=True))
