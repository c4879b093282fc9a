import itertools
import json
import logging
import os
import runpy
import sys
from pathlib import Path

import pytest
from toy_project import forget_dataset, register_dataset, toy_config

from detectron2.data import MetadataCatalog
from detectron2.engine.tools import (
    analyze_model,
    benchmark,
    visualize_data,
    visualize_json_results,
)

TOOLS = Path(__file__).parents[2] / "tools"


pytestmark = pytest.mark.usefixtures("process_as_before")


@pytest.fixture
def name(tmp_path):
    name = register_dataset(tmp_path / "images", f"tools_{tmp_path.name}")
    yield name
    forget_dataset(name)


@pytest.fixture
def yaml_file(tmp_path, name):
    path = tmp_path / "toy.yaml"
    path.write_text(toy_config(tmp_path / "out", name).dump())
    return str(path)


def log_of(tmp_path):
    return (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize(
    "script", ["analyze_model", "benchmark", "visualize_data", "visualize_json_results"]
)
def test_convention_a_script_is_a_thin_caller(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    path = TOOLS / f"{script}.py"
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0 and "usage" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) < 10


def test_a_model_is_analyzed(yaml_file, tmp_path, monkeypatch):
    # The toy needs more than the image, which is all that activations are counted with.
    monkeypatch.setattr(analyze_model, "activation_count_operators", lambda *_: {"conv": 2.0})
    tasks = ["flop", "activation", "parameter", "structure"]
    analyze_model.main(["--tasks", *tasks, "-n", "2", "--config-file", yaml_file])
    log = log_of(tmp_path)
    assert "Total GFlops: 0.0±0.0" in log and "over 2 images" in log
    assert "Average million activations by operator, over 2 images:\n  conv: 2\n" in log
    assert "| model" in log and "Structure:\nToyDetector(" in log
    with pytest.raises(ValueError, match="num-gpus is 2"):
        analyze_model.main(["--tasks", "flop", "--num-gpus", "2"])


@pytest.mark.parametrize(
    ("task", "said"), [("train", "iter: 3"), ("eval", "s / iteration"), ("data", "Distributed")]
)
def test_a_config_is_timed(yaml_file, tmp_path, monkeypatch, task, said):
    monkeypatch.setattr(benchmark, "_TRAIN_ITERATIONS", 4)
    monkeypatch.setattr(benchmark, "_EVAL_ITERATIONS", 3)
    monkeypatch.setattr(benchmark, "_DATA_ITERATIONS", 3)
    with caplog_of_everything() as messages:
        benchmark.invoke_main(["--task", task, "--config-file", yaml_file])
    assert said.lower() in (log_of(tmp_path) + messages()).lower()
    with pytest.raises(ValueError, match="--task eval"):
        benchmark.invoke_main(["--task", task, "--eval-only"])


class caplog_of_everything:
    """Messages of the package, whatever handlers a program sets up."""

    def __enter__(self):
        self.records = []
        self.handler = logging.Handler()
        self.handler.emit = self.records.append
        logging.getLogger("detectron2").addHandler(self.handler)
        return lambda: "\n".join(record.getMessage() for record in self.records)

    def __exit__(self, *error):
        logging.getLogger("detectron2").removeHandler(self.handler)


def test_training_data_is_drawn(yaml_file, tmp_path, monkeypatch):
    folder = tmp_path / "drawn"
    options = ["--config-file", yaml_file, "--output-dir", str(folder)]
    visualize_data.main(["--source", "annotation", *options])
    assert sorted(os.listdir(folder)) == [f"{i}.png" for i in range(4)]
    endless = visualize_data.SOURCES["dataloader"]
    limited = {"dataloader": lambda cfg: itertools.islice(endless(cfg), 8)}
    monkeypatch.setattr(visualize_data, "SOURCES", limited)
    visualize_data.main(["--source", "dataloader", *options, "SEED", "5"])
    assert {"0.jpg", "1.jpg"} <= set(os.listdir(folder))


def test_results_are_drawn_beside_the_truth(name, tmp_path):
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {7: 0}
    row = {"image_id": 1, "bbox": [1, 1, 9, 9], "score": 0.9, "category_id": 7}
    (tmp_path / "found.json").write_text(json.dumps([row]))
    visualize_json_results.main(
        ["--input", str(tmp_path / "found.json"), "--output", str(tmp_path / "drawn"),
         "--dataset", name]
    )  # fmt: skip
    assert len(os.listdir(tmp_path / "drawn")) == 4
