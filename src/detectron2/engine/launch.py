"""Starting one process per GPU (or per CPU worker), on one machine or several."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detectron2.engine._interruption import EXIT_CODE, signals_go_on
from detectron2.engine._slurm import SlurmPlace, slurm_place
from detectron2.engine._torchrun import join_this_start
from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others in a collective call."""


def _find_free_port() -> int:
    """A TCP port of this machine that nobody uses right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))  # port 0 lets the system choose
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class _World:
    """Who takes part, and where this process stands. It is sent to started processes."""

    size: int
    workers_per_machine: int
    dist_url: str
    timeout: timedelta
    start_method: str | None


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: Sequence[Any] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call ``main_func(*args)`` in every process of a distributed job.

    Run it on every machine. One process in all calls the function directly. Without GPUs the
    processes share the CPU and talk through gloo. Under torchrun the processes exist already:
    then the first five arguments are ignored and torchrun's environment counts. The same holds
    under srun with several tasks, if the arguments ask for one process.

    Args:
        main_func: a function at the top level of a module, so that it can be sent.
        num_gpus_per_machine: processes per machine, each with a GPU of its own.
        num_machines: machines that run this.
        machine_rank: number of this machine, from 0.
        dist_url: where the processes meet: ``tcp://<machine 0>:<port>``, ``"auto"`` for a free
            port of this machine, or a file on a disk that all machines share.
        args: arguments of `main_func`.
        timeout: how long a process waits for the others.

    Raises:
        ValueError: `dist_url` does not fit, or there are fewer GPUs than processes.
        SystemExit: a signal, which is passed on to the processes, ended their training; code 85.
    """
    if _started_by_torchrun():
        _run_under_torchrun(main_func, args, timeout)
        return
    size = num_machines * num_gpus_per_machine
    slurm = slurm_place(os.environ)
    if size <= 1 and slurm is not None:
        _run_under_slurm(main_func, args, timeout, slurm)
        return
    if size <= 1:
        main_func(*args)
        return
    _check_gpu_count(num_gpus_per_machine)
    url = _meeting_point(dist_url, num_machines)
    method = mp.get_start_method(allow_none=True)
    world = _World(size, num_gpus_per_machine, url, timeout, method)
    context = mp.start_processes(
        _run_worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, tuple(args), world, machine_rank),
        join=False,
        daemon=False,  # daemons may not start the workers of a data loader
        start_method="spawn",
    )
    try:
        with signals_go_on(context.pids()):
            while not context.join():
                pass
    except mp.ProcessExitedException as error:
        if error.exit_code == EXIT_CODE:  # all of them saved and ended
            raise SystemExit(EXIT_CODE) from None
        raise


def launch_as_asked(main_func: Callable[..., Any], args: Any) -> None:
    """Call ``main_func(args)`` in as many processes as arguments of a training script ask for.

    Args:
        args: parsed by `detectron2.engine.default_argument_parser`.
    """
    launch(
        main_func,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def _started_by_torchrun() -> bool:
    return dist.is_torchelastic_launched() and not dist.is_initialized()


def _check_gpu_count(wanted: int) -> None:
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < found < wanted:
        raise ValueError(f"{wanted} processes need {wanted} GPUs, but this machine has {found}.")


def _meeting_point(dist_url: str | None, num_machines: int) -> str:
    if dist_url is None or dist_url == "auto":
        if num_machines != 1:
            raise ValueError(
                f"{num_machines} machines cannot find each other with dist_url={dist_url!r}; "
                "give tcp://<address of machine 0>:<port>, the same on all of them."
            )
        return f"tcp://127.0.0.1:{_find_free_port()}"
    if dist_url.startswith("file://") and num_machines > 1:
        logging.getLogger(__name__).warning(
            "file:// needs a disk that all machines share and that locks files; "
            "tcp:// is more reliable between machines."
        )
    return dist_url


def _run_worker(
    local_rank: int,
    main_func: Callable[..., Any],
    args: tuple[Any, ...],
    world: _World,
    machine_rank: int,
) -> None:
    # Loaders start their workers as a single process would. Otherwise they do it as this process
    # was started, and each worker imports everything again: seconds per worker.
    mp.set_start_method(world.start_method, force=True)
    rank = machine_rank * world.workers_per_machine + local_rank
    _choose_gpu(local_rank)
    try:
        dist.init_process_group(
            backend=_backend(),
            init_method=world.dist_url,
            world_size=world.size,
            rank=rank,
            timeout=world.timeout,
        )
    except Exception:
        logging.getLogger(__name__).error("Process group URL: %s", world.dist_url)
        raise
    _run_in_group(main_func, args, world.workers_per_machine)


def _run_under_torchrun(
    main_func: Callable[..., Any], args: Sequence[Any], timeout: timedelta
) -> None:
    _choose_gpu(int(os.environ["LOCAL_RANK"]))
    join_this_start(_backend(), timeout)
    _run_in_group(main_func, args, int(os.environ["LOCAL_WORLD_SIZE"]))


def _run_under_slurm(
    main_func: Callable[..., Any], args: Sequence[Any], timeout: timedelta, place: SlurmPlace
) -> None:
    _choose_gpu(place.local_rank)
    dist.init_process_group(
        backend=_backend(),
        init_method=place.url,
        world_size=place.size,
        rank=place.rank,
        timeout=timeout,
    )
    _run_in_group(main_func, args, place.local_size)


def _choose_gpu(local_rank: int) -> None:
    if torch.cuda.is_available():
        # A scheduler may show each process its own GPU and no other: then it is number 0.
        torch.cuda.set_device(local_rank if torch.cuda.device_count() > 1 else 0)


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def _run_in_group(main_func: Callable[..., Any], args: Sequence[Any], local_size: int) -> None:
    comm.create_local_process_group(local_size)
    # A process that is late here, because its machine is slow, is not waited for in vain later.
    comm.synchronize()
    try:
        main_func(*args)
    finally:
        comm._LOCAL_PROCESS_GROUP = None
        dist.destroy_process_group()
