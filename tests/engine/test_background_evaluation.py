"""Evaluation in a thread beside training."""

import logging
import threading

import pytest
import torch
from torch import nn

from detectron2.engine import SimpleTrainer, hooks
from detectron2.utils import comm


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return {"loss": -self.weight}  # SGD with rate 1 counts the steps


def train(hook_of, steps):
    model = Model()
    data = iter(lambda: torch.zeros(1), None)
    trainer = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), lr=1.0))
    trainer.register_hooks([hook_of(model)])
    trainer.train(0, steps)
    return trainer


def history(trainer, name):
    return [value for value, _ in trainer.storage.histories()[name].values()]


def test_what_is_evaluated_is_the_model_of_that_iteration():
    go_on = threading.Event()
    seen = []

    def evaluate(model):
        assert go_on.wait(60) and not model.training
        seen.append(model.weight.item())  # training has gone on in the meantime
        return {"bbox": {"AP": model.weight.item()}}

    class Release(hooks.HookBase):
        def after_step(self):
            if self.trainer.iter == 5:
                go_on.set()

    model = Model()
    data = iter(lambda: torch.zeros(1), None)
    trainer = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), lr=1.0))
    trainer.register_hooks([hooks.BackgroundEvalHook(2, model, evaluate), Release()])
    trainer.train(0, 8)
    assert seen[0] == 2 and seen[-1] == 8
    assert history(trainer, "bbox/AP") == seen
    assert history(trainer, "evaluated_iteration")[0] == 1


def test_an_evaluation_that_is_due_too_early_is_passed_over(caplog):
    go_on = threading.Event()

    def evaluate(model):
        assert go_on.wait(60)
        return {"AP": 1.0}

    class Release(hooks.HookBase):
        def after_train(self):
            go_on.set()

    model = Model()
    data = iter(lambda: torch.zeros(1), None)
    trainer = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), lr=1.0))
    evaluation = hooks.BackgroundEvalHook(1, model, evaluate, eval_after_train=False)
    trainer.register_hooks([Release(), evaluation])
    with caplog.at_level(logging.WARNING):
        trainer.train(0, 4)
    assert caplog.text.count("is not evaluated: the evaluation of iteration 0") == 2
    assert history(trainer, "AP") == [1.0]


def test_an_error_in_the_evaluation_stops_training():
    def evaluate(model):
        raise ValueError("no such dataset")

    with pytest.raises(ValueError, match="no such dataset"):
        train(lambda model: hooks.BackgroundEvalHook(1, model, evaluate), 50)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="use EvalHook"):
        hooks.BackgroundEvalHook(1, Model(), lambda model: {})
