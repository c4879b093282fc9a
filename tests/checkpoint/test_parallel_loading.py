"""Loading in several processes of which not all can see the file.

The other process is played here: its side of each collective call is written down.
"""

import pytest
import torch
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm


@pytest.fixture
def second_process(monkeypatch):
    """Makes this process the second of two; the first could or could not read the file."""

    def become(problem_of_rank_0: str):
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        monkeypatch.setattr(comm, "all_gather", lambda mine: [problem_of_rank_0, mine])
        monkeypatch.setattr(
            torch.distributed, "broadcast", lambda tensor, src: tensor.fill_(3 + src)
        )
        checkpointer = DetectionCheckpointer(nn.Linear(2, 1))
        checkpointer._is_parallel = True
        return checkpointer

    return become


def test_process_without_the_file_gets_the_weights_of_rank_0(second_process, tmp_path, caplog):
    checkpointer = second_process(problem_of_rank_0="")
    assert checkpointer.load(str(tmp_path / "nofile.pth")) == {}
    assert checkpointer.model.weight.tolist() == [[3, 3]]
    assert "nofile.pth" in caplog.text and "come from rank 0" in caplog.text


def test_process_with_the_file_reads_it(second_process, tmp_path):
    torch.save({"model": {"weight": torch.full((1, 2), 7.0)}, "iteration": 1}, tmp_path / "m.pth")
    checkpointer = second_process(problem_of_rank_0="")
    assert checkpointer.load(str(tmp_path / "m.pth")) == {"iteration": 1}
    assert checkpointer.model.weight.tolist() == [[7, 7]]


def test_file_that_rank_0_lacks_stops_all(second_process, tmp_path):
    torch.save({"model": {}}, tmp_path / "m.pth")
    with pytest.raises(OSError, match="rank 0 has no file"):
        second_process(problem_of_rank_0="rank 0 has no file").load(str(tmp_path / "m.pth"))
