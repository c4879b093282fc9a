import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import distributed_program
import pytest
import torch
from toy_project import forget_dataset

from detectron2.engine import launch
from detectron2.engine._interruption import EXIT_CODE
from detectron2.engine.launch import _find_free_port
from detectron2.utils.env import TORCH_VERSION


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [(e["iteration"], e["total_loss"]) for e in lines if "total_loss" in e]


@pytest.mark.skipif(TORCH_VERSION < (2, 7), reason="FSDP2 runs on CPUs since torch 2.7")
def test_two_processes_train_like_one_and_resume_exactly(tmp_path):
    launch(
        distributed_program.everything,
        2,
        dist_url="auto",
        args=(str(tmp_path),),
        timeout=timedelta(seconds=120),
    )
    curves = torch.load(tmp_path / "curves.pth")
    expected = distributed_program.curve(1)
    for name, values in curves.items():
        assert values == pytest.approx(expected, rel=1e-4), name
    whole = losses(tmp_path / "whole")
    assert [at for at, _ in whole] == list(range(distributed_program.STEPS))
    # The end of the first part, at iteration 4, draws no numbers that the whole one does not.
    assert losses(tmp_path / "interrupted") == whole
    try:
        check_sharded(tmp_path)
    finally:
        forget_dataset("distributed")


def check_sharded(folder):
    """The curve of sharded parameters is that of one process, which sees the same batches."""
    alone = functools.partial(distributed_program.smooth_config, sharded=False)
    distributed_program.train(folder / "alone", make_config=alone)
    expected = losses(folder / "alone")
    assert len({value for _, value in expected}) == distributed_program.STEPS
    for (at, value), (expected_at, expected_value) in zip(
        losses(folder / "sharded"), expected, strict=True
    ):
        assert at == expected_at
        assert value == pytest.approx(expected_value, rel=1e-4)
    files = {"model_0000005.sharded", "model_0000007.sharded", "model_final.sharded"}
    others = {"model_final.pth", "last_checkpoint", "metrics.json"}
    assert set(os.listdir(folder / "sharded")) == files | others
    weights = torch.load(folder / "sharded" / "model_final.pth")["model"]
    for name, tensor in torch.load(folder / "alone" / "model_final.pth")["model"].items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6)
    one = functools.partial(distributed_program.smooth_config, sharded=True)
    distributed_program.train(folder / "sharded", make_config=one)  # finished: nothing to do


@pytest.mark.slow
def test_convention_launch_passes_a_signal_on_and_exits_with_85(tmp_path):
    context = multiprocessing.get_context("spawn")
    folder = tmp_path / "run"
    process = context.Process(target=distributed_program.launch_until_signal, args=(str(folder),))
    process.start()
    deadline = time.monotonic() + 120
    while len(list(folder.glob("waiting?"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == EXIT_CODE == 85
    assert [at for at, _ in losses(folder)] == list(range(11))
    assert (folder / "last_checkpoint").read_text() == "model_0000010.pth"
    state = torch.load(folder / "model_0000010.pth")
    assert state["iteration"] == 10 and len(state["trainer"]["ranks"]) == 2


def torchrun(folder, mode, *arguments):
    """A started agent of torchrun."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments,
         distributed_program.__file__, str(folder), mode],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)]),
        },
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_starts_a_killed_training_again_and_it_goes_on_exactly(tmp_path):
    options = ["--nproc-per-node=2", "--max-restarts=1"]
    options += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    for mode in ("whole", "kill"):
        assert torchrun(tmp_path / mode, mode, *options).wait(timeout=300) == 0
    assert losses(tmp_path / "kill") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_two_machines_start_a_killed_training_again_and_it_goes_on_exactly(tmp_path):
    for mode in ("whole", "kill"):
        options = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=1", "--rdzv-id=test"]
        options += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{_find_free_port()}"]
        agents = [torchrun(tmp_path / mode, mode, *options) for _ in range(2)]
        try:
            assert [agent.wait(timeout=300) for agent in agents] == [0, 0]
        finally:
            for agent in agents:
                agent.kill()
    for mode, starts in (("whole", ["0", "1"]), ("kill", ["0", "0", "1", "1"])):
        assert sorted((tmp_path / f"{mode}.starts").read_text().split()) == starts
    assert losses(tmp_path / "kill") == losses(tmp_path / "whole")
