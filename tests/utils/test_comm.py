"""One process here; several processes in tests/engine/test_launch.py."""

import numpy as np
import pytest
import torch

from detectron2.utils import comm


def test_one_process_needs_no_group():
    assert comm.get_world_size() == 1
    assert comm.get_rank() == 0
    assert comm.get_local_rank() == 0
    assert comm.get_local_size() == 1
    assert comm.is_main_process()
    assert comm.synchronize() is None


def test_collective_calls_return_what_they_got():
    losses = {"a": torch.ones(1)}
    assert comm.gather(3) == [3]
    assert comm.all_gather("x") == ["x"]
    assert comm.reduce_dict(losses) is losses


def test_convention_the_shared_seed_is_drawn_from_numpy():
    np.random.seed(5)
    expected = np.random.randint(2**31)
    np.random.seed(5)
    assert comm.shared_random_seed() == expected


def test_without_a_process_group_there_is_no_local_one():
    with pytest.raises(RuntimeError, match=r"launch\(\) or torchrun"):
        comm.get_local_process_group()
    with pytest.raises(RuntimeError, match="init_process_group"):
        comm.create_local_process_group(2)


def test_convention_projects_may_set_the_local_group(monkeypatch):
    group = object()
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", group)
    assert comm.get_local_process_group() is group
