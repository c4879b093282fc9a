"""Two processes on the CPU. The functions that they run are in this file, at its top level."""

import json
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from detectron2.engine import SimpleTrainer, _setup, create_ddp_model, launch
from detectron2.engine.launch import (
    DEFAULT_TIMEOUT,
    _choose_gpu,
    _find_free_port,
    _meeting_point,
)
from detectron2.utils import comm


def collective_calls():
    """What one process sees of the others."""
    rank = comm.get_rank()
    seen = {
        "world_size": comm.get_world_size(),
        "local": [comm.get_local_rank(), comm.get_local_size()],
        "main": comm.is_main_process(),
        "start_method": torch.multiprocessing.get_start_method(),
        "all_gather": comm.all_gather({"rank": rank}),
        "gather": comm.gather(rank, dst=1),
        "local_gather": comm.all_gather(rank, group=comm.get_local_process_group()),
        "seeds_agree": len(set(comm.all_gather(comm.shared_random_seed()))) == 1,
    }
    # Keys in another order on each process.
    values = {"a": torch.tensor(float(rank)), "b": torch.tensor(10.0 + rank)}
    if rank == 1:
        values = dict(reversed(values.items()))
    mean, total = comm.reduce_dict(values), comm.reduce_dict(values, average=False)
    if rank == 0:
        seen["mean"] = {name: value.item() for name, value in mean.items()}
        seen["total"] = {name: value.item() for name, value in total.items()}
    comm.create_local_process_group(2)  # the one that launch() made is kept
    comm.synchronize()
    return seen


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return {"loss": (self.weight * x).sum()}


def train_together(asynchronous):
    """Data of rank r is r + 1, so that means over the processes can be told from parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = create_ddp_model(Model(), broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = iter(lambda: torch.tensor([comm.get_rank() + 1.0]), None)
    trainer = SimpleTrainer(model, data, optimizer, async_write_metrics=asynchronous)
    trainer.train(0, 3)
    losses = [value for value, _ in trainer.storage.histories()["total_loss"].values()]
    return {"losses": losses, "weight": model.module.weight.item()}


def one_process_explodes():
    """Both must stop, though only rank 1 has a loss that is not finite."""
    model = create_ddp_model(Model())
    value = float("nan") if comm.get_rank() == 1 else 1.0
    trainer = SimpleTrainer(
        model, iter(lambda: torch.tensor([value]), None), torch.optim.SGD(model.parameters(), 0.1)
    )
    try:
        trainer.train(0, 3)
    except FloatingPointError:
        return True
    return False


def everything(folder):
    seen = {
        **collective_calls(),
        "training": train_together(False),
        "asynchronous": train_together(True),
        "stopped": one_process_explodes(),
    }
    Path(folder, f"rank{comm.get_rank()}.json").write_text(json.dumps(seen))


def read_ranks(folder):
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def check_two_processes(first, second):
    assert first["world_size"] == second["world_size"] == 2
    assert [first["local"], second["local"]] == [[0, 2], [1, 2]]
    assert [first["main"], second["main"]] == [True, False]
    assert first["all_gather"] == second["all_gather"] == [{"rank": 0}, {"rank": 1}]
    assert [first["gather"], second["gather"]] == [[], [0, 1]]
    assert first["local_gather"] == second["local_gather"] == [0, 1]
    assert first["seeds_agree"]
    assert first["mean"] == {"a": 0.5, "b": 10.5}
    assert first["total"] == {"a": 1.0, "b": 21.0}


def test_two_processes_see_each_other_and_train_together(tmp_path):
    launch(everything, 2, dist_url="auto", args=(str(tmp_path),), timeout=timedelta(seconds=120))
    first, second = read_ranks(tmp_path)
    check_two_processes(first, second)
    assert first["start_method"] == torch.multiprocessing.get_start_method() != "spawn"
    for key in ("training", "asynchronous"):
        # The mean of the gradients 1 and 2, three times.
        assert first[key]["weight"] == second[key]["weight"] == pytest.approx(1 - 3 * 0.1 * 1.5)
        assert first[key]["losses"] == pytest.approx([1.5, 1.275, 1.05])
    assert first["stopped"] and second["stopped"]


def test_processes_of_torchrun_are_used_as_they_are(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import json\n"
        "from pathlib import Path\n"
        "from detectron2.engine import launch\n"
        "from detectron2.utils import comm\n"
        "from test_launch import collective_calls\n"
        "def main():\n"
        "    seen = collective_calls()\n"
        f"    folder = Path({str(tmp_path)!r})\n"
        "    (folder / f'rank{comm.get_rank()}.json').write_text(json.dumps(seen))\n"
        "launch(main, num_gpus_per_machine=8)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [*command, "--nproc-per-node", "2", str(script)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    check_two_processes(*read_ranks(tmp_path))


def test_one_process_is_a_plain_call():
    seen = []
    launch(lambda x: seen.append(x), 1, args=(3,))
    assert seen == [3]


def fail():
    raise ValueError(f"broken on rank {comm.get_rank()}")


def test_an_error_in_a_process_reaches_the_caller():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="broken on rank"):
        launch(fail, 2, dist_url="auto")


def test_several_machines_must_name_a_meeting_point():
    with pytest.raises(ValueError, match="tcp://<address of machine 0>"):
        launch(fail, 2, num_machines=2, dist_url="auto")


def test_a_shared_file_between_machines_is_a_warning(caplog):
    assert _meeting_point("file:///shared/meet", 2) == "file:///shared/meet"
    assert "tcp:// is more reliable" in caplog.text


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes need 2 GPUs, but this machine has 1"):
        launch(fail, 2, dist_url="auto")


def test_free_ports_and_the_timeout():
    assert 0 < _find_free_port() < 2**16
    assert timedelta(minutes=30) == DEFAULT_TIMEOUT


@pytest.mark.parametrize(("visible", "expected"), [(8, 3), (1, 0)])
def test_a_process_takes_its_gpu_also_where_it_sees_no_other(visible, expected, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    _choose_gpu(3)
    assert chosen == [expected]


def test_gradients_are_exchanged_on_the_device_of_the_model(monkeypatch):
    class OnFirstGPU(nn.Module):
        def parameters(self):
            yield SimpleNamespace(device=torch.device("cuda", 0))

    options = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    monkeypatch.setattr(comm, "get_local_rank", lambda: 3)
    monkeypatch.setattr(
        _setup, "DistributedDataParallel", lambda model, **kwargs: options.append(kwargs)
    )
    create_ddp_model(OnFirstGPU())
    assert options == [{"device_ids": [0]}]
