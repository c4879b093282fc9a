"""What happens in a data loading process before it works."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

import torch

from detectron2.utils.env import seed_all_rng

__all__ = ["follow_parent", "worker_init_reset_seed"]


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed a data loading worker's generators from PyTorch's base seed and its own number."""
    initial_seed = torch.initial_seed() % 2**31
    seed_all_rng(initial_seed + worker_id)
    follow_parent(worker_id)


def follow_parent(_: int) -> None:
    """Let a data loading worker end with the program that uses it, neither before nor after."""
    _leave_signals_to_parent()
    _end_with_parent()


def _leave_signals_to_parent() -> None:
    """Let a worker go on when a signal comes that asks the whole program to end.

    A terminal, ``timeout``, SLURM and containers signal every process. A trainer then finishes its
    step, for which it may need a batch, and ends its workers itself.
    """
    user = multiprocessing.parent_process()
    if user is None or not hasattr(signal, "sigwaitinfo"):  # a Mac tells no sender
        return
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        while True:
            received = signal.sigwaitinfo(signals)
            if received.si_signo == signal.SIGTERM and received.si_pid == user.pid:
                os._exit(0)  # Process.terminate()

    threading.Thread(target=wait, daemon=True).start()


def _end_with_parent() -> None:
    """Let a worker end when the program that uses it is killed.

    PyTorch looks at the parent's process id every five seconds while it waits for work. Of a worker
    of a fork server that is the server, and its workers stayed for ever; from Python 3.14 on they
    are started in that way on Linux.
    """
    user = multiprocessing.parent_process()
    if user is None:
        return

    def wait() -> None:
        user.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
