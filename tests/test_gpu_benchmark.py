"""What `benchmarks/gpu.py` says of failures and of detections; its parts run on a machine's GPU."""

import sys
from pathlib import Path

import pytest
import torch

from detectron2.engine import benchmark
from detectron2.structures import Boxes, Instances

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    return pytest.importorskip("gpu")


def detections(boxes, scores, classes):
    return Instances(
        (50, 50),
        pred_boxes=Boxes(torch.tensor(boxes)),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes),
    )


BOXES = [[0.0, 0, 10, 10], [20, 20, 40, 40]]


def test_a_machine_without_a_gpu_is_told_so(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert "finds no GPU here" in capsys.readouterr().out


def test_a_line_that_fails_is_counted_and_told_and_the_next_one_comes(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "gpu_is_lost", lambda: False)
    table = gpu.Table(gpu.parse(), "Title", "name", "ms")
    table.add("first", lambda: [1 / 0])
    table.add("second", lambda: ["second", 2])
    said = capsys.readouterr()
    assert said.out.endswith("| first | failed |\n| second | 2 |\n") and table.failed == 1
    assert "ZeroDivisionError" in said.err


def test_where_the_gpu_is_lost_a_new_process_goes_on(gpu, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(gpu, "gpu_is_lost", lambda: True)
    monkeypatch.setattr(gpu.os, "execv", lambda program, command: started.append(command[2:]))
    table = gpu.Table(gpu.parse(), "Title", "name")
    table.add("first", lambda: ["first"])
    table.add("second", lambda: [1 / 0])
    assert started == [["--skip", "2", "--failed-before", "1"]]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["gpu.py", *started[0]])
    table = gpu.Table(gpu.parse(), "Title", "name")
    for name in ("first", "second", "third"):
        table.add(name, lambda name=name: [name], always=name == "first")
    assert capsys.readouterr().out.endswith("|---|\n| first |\n| third |\n")
    assert table.failed == 1


def test_a_part_that_fails_or_takes_too_long_is_a_failure(gpu, monkeypatch, capsys):
    options = gpu.parse()
    monkeypatch.setattr(gpu, "__file__", "-c")
    for code, seconds, success in (
        ("", 60, True),
        ("exit(1)", 60, False),
        ("while 1: 1", 0.3, False),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu.py", code])
        options.part_seconds = seconds
        assert gpu.run_in_a_process("ops", options) is success
    assert "took more than 0.3 s" in capsys.readouterr().out


def test_agreement_is_of_place_and_class(gpu):
    expected = [detections(BOXES, [0.9, 0.5], [1, 2])]
    moved = [[0.0, 0, 10, 10], [25, 20, 45, 40]]
    assert gpu.agreement(expected, expected) == ("100.0%", "0.0e+00")
    assert gpu.agreement([detections(BOXES[::-1], [0.5, 0.8], [2, 1])], expected) == (
        "100.0%",
        "1.0e-01",
    )
    assert gpu.agreement([detections(moved, [0.9, 0.5], [1, 2])], expected)[0] == "50.0%"
    assert gpu.agreement([detections(BOXES, [0.9, 0.5], [1, 1])], expected)[0] == "50.0%"
    nothing = [detections(BOXES, [0.9, 0.5], [1, 2])[:0]]
    assert gpu.agreement(nothing, expected)[0] == "0.0%"


def test_differences_of_ops_are_of_floats_and_of_other_values(gpu, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS / "ops"))
    measure = pytest.importorskip("measure")
    ones = torch.ones(3)
    ours = (ones + torch.tensor([0.0, 0, 0.5]), torch.tensor([1, 2]))
    assert measure.difference(ours, (ones, torch.tensor([1, 3]))) == "5.0e-01 of 1, 1 other values"
    assert measure.difference(ones[:2], ones) == "shapes [(2,)] and [(3,)]"
    assert measure.difference(ones * torch.nan, ones) == "nan of 1"


@pytest.mark.parametrize("tf32", [True, False])
def test_a_description_of_a_gpu_says_what_float32_means_there(tf32, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    said = benchmark.describe_machine(torch.device("cuda"))
    assert said["device"] == "a GPU" and said["float32 products"] == "float32"
    assert said["float32 convolutions"] == ("TF32" if tf32 else "float32")


def test_float32_that_is_set_by_newer_names_is_described_too(monkeypatch):
    class Backend:
        @property
        def allow_tf32(self):
            raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.backends.cuda, "matmul", Backend())
    said = benchmark.describe_machine(torch.device("cuda"))
    assert said["float32 products"] == "by fp32_precision"
