import argparse
import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from toy_project import (
    LAZY_CONFIG,
    CountImages,
    ToyDetector,
    ToyTrainer,
    forget_dataset,
    register_dataset,
    toy_config,
)

from detectron2.data import MetadataCatalog
from detectron2.engine import default_argument_parser, entry_points, plain_loop
from detectron2.evaluation.default_evaluators import EVALUATORS

TOOLS = Path(__file__).parents[2] / "tools"


pytestmark = pytest.mark.usefixtures("process_as_before")


@pytest.fixture
def yaml_file(tmp_path):
    """A toy config on disk, whose dataset exists."""
    name = register_dataset(tmp_path / "images", f"entry_{tmp_path.name}")
    path = tmp_path / "toy.yaml"
    path.write_text(toy_config(tmp_path / "out", name).dump())
    yield path
    forget_dataset(name)


@pytest.fixture
def lazy_file(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(LAZY_CONFIG.replace("OUTPUT", str(tmp_path / "out")))
    return path


def parse(*arguments):
    return default_argument_parser().parse_args([str(argument) for argument in arguments])


def read_metrics(tmp_path):
    text = (tmp_path / "out" / "metrics.json").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_setup_reads_the_file_and_the_changes(yaml_file, tmp_path):
    cfg = entry_points.setup(parse("--config-file", yaml_file, "SOLVER.MAX_ITER", "3"))
    assert cfg.SOLVER.MAX_ITER == 3
    assert cfg.MODEL.META_ARCHITECTURE == "ToyDetector"
    assert cfg.is_frozen()
    assert (tmp_path / "out" / "config.yaml").is_file()


def test_setup_takes_a_name_of_the_zoo(tmp_path):
    name = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    cfg = entry_points.setup(parse("--config-file", name, "OUTPUT_DIR", tmp_path / "out"))
    assert cfg.MODEL.META_ARCHITECTURE == "RetinaNet"


def test_projects_add_keys_before_the_file_is_read(tmp_path):
    def add_keys(cfg):
        cfg.MODEL.MINE = 1

    path = tmp_path / "mine.yaml"
    path.write_text(f"MODEL:\n  MINE: 7\nOUTPUT_DIR: {tmp_path / 'out'}\n")
    assert entry_points.setup(parse("--config-file", path), add_keys).MODEL.MINE == 7
    with pytest.raises(KeyError, match="MINE"):
        entry_points.setup(parse("--config-file", path))


def test_setup_reads_lazy_configs(lazy_file, tmp_path):
    cfg = entry_points.setup(parse("--config-file", lazy_file, "train.max_iter=3"))
    assert isinstance(cfg, DictConfig)
    assert cfg.train.max_iter == 3
    assert (tmp_path / "out" / "config.yaml").is_file()


def test_main_trains_and_resumes(yaml_file, tmp_path):
    args = parse("--config-file", yaml_file, "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()")
    entry_points.main(args, trainer_class=ToyTrainer)
    args = parse("--config-file", yaml_file, "--resume")
    entry_points.main(args, trainer_class=ToyTrainer)
    assert [line["iteration"] for line in read_metrics(tmp_path)] == [1, 5, 6]


def test_main_evaluates(yaml_file, tmp_path):
    torch.save({"model": ToyDetector().state_dict()}, tmp_path / "weights.pth")
    args = parse(
        "--config-file", yaml_file, "--eval-only", "MODEL.WEIGHTS", tmp_path / "weights.pth"
    )
    results = entry_points.main(args, trainer_class=ToyTrainer)
    assert results["toy"]["images"] == 4
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_main_evaluates_the_last_checkpoint(yaml_file, tmp_path, caplog):
    entry_points.main(parse("--config-file", yaml_file), trainer_class=ToyTrainer)
    args = parse("--config-file", yaml_file, "--eval-only", "--resume", "MODEL.WEIGHTS", "absent")
    assert entry_points.main(args, trainer_class=ToyTrainer)["toy"]["images"] == 4


def test_main_trains_lazy_configs(lazy_file, tmp_path):
    entry_points.main(parse("--config-file", lazy_file, "train.max_iter=3"))
    lines = read_metrics(tmp_path)
    assert lines[-1]["toy/images"] == 3.0
    args = parse("--config-file", lazy_file, "--eval-only", "--resume")
    assert entry_points.main(args)["toy"]["images"] == 3


def test_main_evaluates_with_test_time_augmentation(yaml_file, monkeypatch):
    augmented = []
    monkeypatch.setattr(
        "detectron2.modeling.GeneralizedRCNNWithTTA",
        lambda cfg, model: augmented.append(model) or model,
    )
    monkeypatch.setitem(EVALUATORS, "toy_type", (lambda name, folder, cfg: CountImages(),))
    args = parse("--config-file", yaml_file, "--eval-only", "TEST.AUG.ENABLED", "True")
    (name,) = entry_points.setup(args).DATASETS.TEST
    MetadataCatalog.get(name).evaluator_type = "toy_type"
    results = entry_points.main(args)
    assert sorted(results) == ["toy", "toy_TTA"]
    assert len(augmented) == 1


def test_evaluation_fails_when_results_are_not_as_expected(yaml_file):
    expected = "[['toy', 'images', 9, 1.0]]"
    args = parse("--config-file", yaml_file, "--eval-only", "TEST.EXPECTED_RESULTS", expected)
    with pytest.raises(SystemExit):
        entry_points.main(args, trainer_class=ToyTrainer)


def test_invoke_main_reads_the_command_line(yaml_file, tmp_path, monkeypatch):
    line = ["train_net.py", "--config-file", str(yaml_file), "SOLVER.MAX_ITER", "1"]
    monkeypatch.setattr(sys, "argv", line)
    monkeypatch.setattr(entry_points, "DefaultTrainer", ToyTrainer)
    entry_points.invoke_main()
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_a_loop_without_a_trainer_trains_resumes_and_tests(yaml_file, tmp_path, monkeypatch):
    monkeypatch.setattr(plain_loop, "get_evaluator", lambda cfg, name: CountImages())
    arguments = ("SOLVER.MAX_ITER", "8", "SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", "4")
    args = parse("--config-file", yaml_file, "TEST.EVAL_PERIOD", "4", *arguments)
    assert plain_loop.main(args)["toy"]["images"] == 4
    assert [line["iteration"] for line in read_metrics(tmp_path)] == [7]
    assert {"model_0000003.pth", "model_final.pth"} <= set(os.listdir(tmp_path / "out"))

    args = parse("--config-file", yaml_file, "--resume", "SOLVER.MAX_ITER", "14")
    plain_loop.main(args)
    assert [line["iteration"] for line in read_metrics(tmp_path)] == [7, 13]
    args = parse("--config-file", yaml_file, "--resume", "--eval-only")
    assert plain_loop.main(args)["toy"]["images"] == 4


def test_a_loop_without_a_trainer_stops_at_a_loss_that_is_not_finite(yaml_file):
    class Broken(ToyDetector):
        def forward(self, batch):
            return {"loss_bad": super().forward(batch)["loss_colour"] * float("inf")}

    cfg = entry_points.setup(parse("--config-file", yaml_file))
    with pytest.raises(FloatingPointError, match=r"iteration 0: \{'loss_bad': inf\}"):
        plain_loop.do_train(cfg, Broken())


@pytest.mark.parametrize(
    "script", ["train_net.py", "plain_train_net.py", "lazyconfig_train_net.py"]
)
def test_convention_scripts_are_thin(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOLS / script), run_name="__main__")
    assert end.value.code == 0
    assert f"{script} --num-gpus 8" in capsys.readouterr().out


def test_arguments_are_a_namespace_that_others_may_build(yaml_file):
    args = argparse.Namespace(config_file=str(yaml_file), opts=[], eval_only=False, resume=False)
    assert entry_points.setup(args).SOLVER.MAX_ITER == 6
