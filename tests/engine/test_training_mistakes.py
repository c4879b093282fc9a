"""What users and machines do wrong during a training, from its beginning to the message."""

import errno
import logging
import os
from itertools import chain

import pytest
import torch
from toy_project import LAZY_CONFIG, ToyTrainer, forget_dataset, register_dataset, toy_config

from detectron2.checkpoint import detection_checkpoint
from detectron2.config import LazyConfig
from detectron2.engine import DefaultTrainer
from detectron2.engine._step_guard import StepGuard
from detectron2.engine._trainer_base import NotFiniteError
from detectron2.engine.replay_batch import replay
from detectron2.engine.train_command import TrainOptions, run_train


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    name = register_dataset(tmp_path / "images", f"mistakes_{tmp_path.name}")
    yield toy_config(tmp_path / "out", name)
    forget_dataset(name)


def train(cfg, resume=False):
    trainer = ToyTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_a_learning_rate_of_a_million_is_diagnosed_without_a_traceback(cfg, caplog):
    cfg.SOLVER.BASE_LR = 1e6
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 60, ()
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.MOMENTUM = 0.99
    caplog.set_level(logging.INFO)
    with pytest.raises(NotFiniteError) as caught:
        train(cfg)
    for part in ("First bad tensor", "Learning rate: 1e+06", ".png", "Boxes: ", "debug-batch"):
        assert part in str(caught.value), part
    assert not any(record.exc_info for record in caplog.records)
    (file, *_) = sorted((os.scandir(os.path.join(cfg.OUTPUT_DIR, "bad_batches"))), key=str)
    assert "First bad tensor" in replay(file.path)


def test_a_disk_that_fills_up_ends_the_training_and_it_goes_on_from_the_file_before(
    cfg, monkeypatch, caplog
):
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    whole, files = detection_checkpoint.write_through, []

    def write_through(file, write):
        files.append(file.name)
        if "model_0000003" in file.name:
            file.write(bytes(100))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(file, write)

    monkeypatch.setattr(detection_checkpoint, "write_through", write_through)
    with pytest.raises(OSError, match="No space left on device.*the one before it is whole"):
        train(cfg)
    assert any("model_0000003" in name for name in files)
    assert not any(record.exc_info for record in caplog.records)
    kept = {name for name in os.listdir(cfg.OUTPUT_DIR) if "model" in name}
    assert kept == {"model_0000001.pth"}
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert train(cfg, resume=True).start_iter == 2


def test_another_number_of_processes_goes_on_at_the_same_image_and_says_so(cfg, capsys):
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    train(cfg)
    path = os.path.join(cfg.OUTPUT_DIR, "model_0000001.pth")
    state = torch.load(path)
    state["trainer"]["_trainer"]["data_loader"]["world_size"] = 2
    torch.save(state, path)
    with open(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"), "w") as stream:
        stream.write("model_0000001.pth")
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 2 and resumed.iter == 6
    assert "The checkpoint is of 2 processes, now there are 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [("OPTIMIZER", "SDG", "SOLVER.OPTIMIZER is 'SDG'; use one of"),
     ("LR_SCHEDULER_NAME", "WarmupSteps", "WarmupSteps")],
)  # fmt: skip
def test_unknown_names_of_the_solver_are_explained(cfg, key, value, sentence):
    cfg.SOLVER[key] = value
    with pytest.raises((ValueError, KeyError), match=sentence):
        ToyTrainer(cfg)


def test_a_bad_batch_of_a_lazy_config_is_replayed_with_it(tmp_path):
    file = tmp_path / "toy.py"
    file.write_text(LAZY_CONFIG.replace("OUTPUT", str(tmp_path / "out")))
    trainer = DefaultTrainer(LazyConfig.load(str(file)))
    batch = [{"image": torch.full((3, 4, 4), float("nan")), "file_name": "black.png"}] * 2
    trainer._trainer.guard = StepGuard(str(tmp_path))
    good = [{"image": torch.rand(3, 4, 4)}, {"image": torch.rand(3, 4, 4)}]
    trainer._trainer.data_loader = chain([good], iter(lambda: batch, None))
    trainer.resume_or_load(resume=False)
    with pytest.raises(NotFiniteError):
        trainer.train()
    bad = tmp_path / "bad_batches" / "iteration_0000001_rank0.pth"
    with pytest.raises(ValueError, match="Name the LazyConfig with --config"):
        replay(str(bad))
    text = replay(str(bad), config=str(file))
    assert "loss_colour: nan" in text and "black.png" in text


def test_the_finder_of_learning_rates_is_a_command(cfg, tmp_path, capsys):
    path = tmp_path / "toy.yaml"
    path.write_text(cfg.dump())
    options = TrainOptions(config=str(path), find_lr=True, device="cpu", random_weights=True)
    run_train(options)
    said = capsys.readouterr().out
    assert "The loss falls steepest at" in said and "--set SOLVER.BASE_LR=" in said
    assert not (tmp_path / "out" / "model_final.pth").exists()
    with pytest.raises(ValueError, match="runs in one process"):
        run_train(TrainOptions(config=str(path), find_lr=True, device="cpu", num_gpus=2))
