"""What srun says about the tasks of a job step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SlurmPlace", "slurm_place"]


@dataclass(frozen=True)
class SlurmPlace:
    """Where this process stands among the tasks that srun started."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    url: str


def slurm_place(environment: Mapping[str, str]) -> SlurmPlace | None:
    """The place of this process; None if srun did not start several tasks.

    A batch script itself is no task of a step, and neither is a shell of salloc.

    Raises:
        ValueError: the tasks are spread unevenly over the machines.
    """
    size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if size <= 1 or "SLURM_PROCID" not in environment:
        return None
    port = 20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000
    address = environment.get("MASTER_ADDR") or _first_host(
        environment.get("SLURM_STEP_NODELIST", "127.0.0.1")
    )
    return SlurmPlace(
        rank=int(environment["SLURM_PROCID"]),
        size=size,
        local_rank=int(environment["SLURM_LOCALID"]),
        local_size=_tasks_per_machine(environment.get("SLURM_STEP_TASKS_PER_NODE", str(size))),
        url=f"tcp://{address}:{environment.get('MASTER_PORT', port)}",
    )


def _first_host(hosts: str) -> str:
    """``gpu[03-05,9],other`` begins with gpu03."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\](.*?))?(?:,|$)", hosts)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST is {hosts!r}; set MASTER_ADDR to its first host.")
    name, number, rest = match.groups()
    return name + (number or "") + (rest or "")


def _tasks_per_machine(text: str) -> int:
    """``4(x2)`` is four tasks on each of two machines."""
    match = re.fullmatch(r"(\d+)(\(x\d+\))?", text)
    if match is None:
        raise ValueError(
            f"SLURM spread the tasks unevenly over the machines ({text}); use --ntasks-per-node."
        )
    return int(match.group(1))
