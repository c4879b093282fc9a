"""What happens in a data loading process before it works."""

from __future__ import annotations

import multiprocessing
import os
import threading

import torch

from detectron2.utils.env import seed_all_rng

__all__ = ["worker_init_reset_seed"]


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed a data loading worker's generators from PyTorch's base seed and its own number."""
    initial_seed = torch.initial_seed() % 2**31
    seed_all_rng(initial_seed + worker_id)
    _end_with_parent()


def _end_with_parent() -> None:
    """Let a worker of a fork server end when the program that uses it is killed.

    PyTorch looks at the parent's process id, which is that of the fork server: its workers stayed
    for ever. From Python 3.14 on they are started in that way on Linux.
    """
    user = multiprocessing.parent_process()
    if user is None or user.pid == os.getppid():
        return

    def wait() -> None:
        user.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
