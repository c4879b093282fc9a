"""Processes that torchrun started together find each other, whatever earlier starts have left."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from detectron2.engine._torchrun import name_of_this_start

SOON = timedelta(seconds=0.3)


def names(store, ranks):
    """What the processes are told, who come one after the other."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        told = []
        for rank in ranks:
            wait = timedelta(seconds=10)
            told.append(pool.submit(name_of_this_start, store, rank, len(ranks), wait))
            time.sleep(0.1)
        return [each.result() for each in told]


def test_a_start_has_one_name_that_no_earlier_one_had():
    store = dist.HashStore()
    starts = [names(store, ranks) for ranks in ([0, 1, 2], [2, 1, 0], [1, 0], [0])]
    assert all(len(set(start)) == 1 for start in starts)
    assert len({start[0] for start in starts}) == len(starts)


def test_questions_of_processes_that_were_killed_do_no_harm():
    store = dist.HashStore()
    for rank in (1, 2):
        with pytest.raises(RuntimeError, match=r"Rank 0 has not come within 0:00:00\.3"):
            name_of_this_start(store, rank, 3, SOON)
    assert len(set(names(store, [0, 1, 2]))) == 1


def test_processes_that_do_not_come_are_named():
    with pytest.raises(RuntimeError, match=r"of rank \[1, 2\] have not come within 0:00:00\.3"):
        name_of_this_start(dist.HashStore(), 0, 3, SOON)
