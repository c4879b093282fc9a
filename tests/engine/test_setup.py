import argparse
import logging
import random
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from detectron2.config import get_cfg
from detectron2.engine import default_argument_parser, default_setup, default_writers
from detectron2.engine.defaults import _highlight, _try_get_key
from detectron2.utils import env
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch):
    """default_setup changes what the whole process sees."""
    monkeypatch.setattr(env, "_environment_is_set_up", True)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


def yacs(folder, **changes):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    for key, value in changes.items():
        cfg[key] = value
    return cfg


def lazy(folder, **train):
    return OmegaConf.create({"train": {"output_dir": str(folder), **train}, "x": {"y": [1, 2]}})


def test_convention_options_of_training_scripts():
    parsed = default_argument_parser().parse_args([])
    assert parsed.dist_url.startswith("tcp://127.0.0.1:")
    del parsed.dist_url
    assert vars(parsed) == {
        "config_file": "",
        "resume": False,
        "eval_only": False,
        "num_gpus": 1,
        "num_machines": 1,
        "machine_rank": 0,
        "opts": [],
    }


def test_everything_after_the_options_belongs_to_the_config():
    line = "--config-file a.yaml --num-gpus 4 --resume SOLVER.BASE_LR 0.1 MODEL.WEIGHTS --x"
    parsed = default_argument_parser().parse_args(line.split())
    assert parsed.opts == ["SOLVER.BASE_LR", "0.1", "MODEL.WEIGHTS", "--x"]
    assert (parsed.config_file, parsed.num_gpus, parsed.resume) == ("a.yaml", 4, True)


def test_the_help_shows_examples_with_the_name_of_the_script(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["my_train.py"])
    assert "$ my_train.py --num-gpus 8" in default_argument_parser().format_help()
    assert "my own text" in default_argument_parser(epilog="my own text").format_help()


@pytest.mark.parametrize("make", [dict, OmegaConf.create], ids=["dict", "omegaconf"])
def test_the_first_key_that_exists_is_taken(make):
    cfg = make({"A": {"B": 3}, "C": 0})
    assert _try_get_key(cfg, "X.Y", "A.B", "C") == 3
    assert _try_get_key(cfg, "A.B.Z", "C") == 0
    assert _try_get_key(cfg, "X", default=7) == 7
    assert _try_get_key(get_cfg(), "nothing", "SOLVER.BASE_LR") == 0.001


def test_code_is_coloured_on_a_terminal(monkeypatch):
    code = "A:\n  B: 1\n"
    assert _highlight(code, "a.yaml") == code
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[" in _highlight(code, "a.yaml")
    assert "\x1b[" in _highlight("x = 1", "a.py")
    monkeypatch.setitem(sys.modules, "pygments", None)
    assert _highlight(code, "a.yaml") == code


@pytest.mark.parametrize("make", [yacs, lazy])
@pytest.mark.parametrize("args", [{}, argparse.Namespace(config_file="", eval_only=False)])
def test_convention_both_kinds_of_configs_are_set_up(make, args, tmp_path):
    cfg = make(tmp_path / "out")
    default_setup(cfg, args)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "Rank of current process: 0. World size: 1" in log
    assert torch.__version__ in log
    saved = OmegaConf.load(tmp_path / "out" / "config.yaml")
    assert "SOLVER" in saved if make is yacs else saved.x.y == [1, 2]


def test_the_saved_yaml_is_the_config(tmp_path):
    cfg = yacs(tmp_path)
    cfg.SOLVER.BASE_LR = 0.125
    default_setup(cfg, {})
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert again.SOLVER == cfg.SOLVER


def test_the_config_file_is_logged(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("VERSION: 2  # a remark of mine\n")
    default_setup(yacs(tmp_path / "out"), argparse.Namespace(config_file=str(file)))
    assert "a remark of mine" in (tmp_path / "out" / "log.txt").read_text()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"output folder .*file/out' cannot be written to.*OUTPUT_DIR"
    ):
        default_setup(yacs(tmp_path / "file" / "out"), {})


@pytest.mark.parametrize(("make", "key"), [(yacs, "SEED"), (lazy, "seed")])
def test_a_seed_repeats_everything(make, key, tmp_path):
    drawn = []
    for _ in range(2):
        default_setup(make(tmp_path, **{key: 5}), {})
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]
    default_setup(make(tmp_path, **{key: -1}), {})
    assert (random.random(), np.random.rand(), torch.rand(1).item()) != drawn[0]


@pytest.mark.parametrize(("eval_only", "expected"), [(False, True), (True, False)])
def test_cudnn_looks_for_the_fastest_only_when_training(eval_only, expected, tmp_path):
    args = argparse.Namespace(eval_only=eval_only)
    default_setup(yacs(tmp_path, CUDNN_BENCHMARK=True), args)
    assert torch.backends.cudnn.benchmark is expected


@pytest.mark.parametrize(("precision", "tf32"), [("highest", False), ("high", True)])
def test_float32_precision_is_set_where_there_is_a_gpu(precision, tf32, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", calls.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    default_setup(yacs(tmp_path, FLOAT32_PRECISION=precision), {})
    assert calls == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("detectron2.engine._setup.collect_env_info", lambda: "")
    default_setup(yacs(tmp_path, FLOAT32_PRECISION=precision), {})
    assert calls == [precision]
    assert torch.backends.cudnn.allow_tf32 is tf32


def test_default_writers_are_log_json_and_tensorboard(tmp_path):
    writers = default_writers(str(tmp_path / "out"), 10)
    assert [type(w) for w in writers] == [CommonMetricPrinter, JSONWriter, TensorboardXWriter]
    assert (tmp_path / "out").is_dir()


def test_the_log_level_lets_everything_through(tmp_path):
    default_setup(yacs(tmp_path), {})
    assert logging.getLogger("detectron2.some.module").isEnabledFor(logging.DEBUG)
