import json
import logging
import os

import pytest
import torch
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    LinearParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer, hooks
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return {"loss": self.fc(x).square().sum()}


def endless():
    while True:
        yield torch.ones(3, 2)


def trainer_of(*registered, model=None, lr=0.1):
    model = model or Model()
    trainer = SimpleTrainer(model, endless(), torch.optim.SGD(model.parameters(), lr=lr))
    trainer.register_hooks(registered)
    return trainer


class Writes(EventWriter):
    def __init__(self, log):
        self.log = log

    def write(self):
        self.log.append("write")

    def close(self):
        self.log.append("close")


def test_callbacks_get_the_trainer_and_are_forgotten():
    seen = []
    hook = hooks.CallbackHook(
        before_train=lambda t: seen.append("before"),
        before_step=lambda t: seen.append(t.iter),
        after_train=lambda t: seen.append("after"),
    )
    trainer_of(hook).train(3, 5)
    assert seen == ["before", 3, 4, "after"]
    assert hook._before_step is None


@pytest.mark.parametrize(
    ("iterations", "period", "at"), [(30, 15, [14, 30]), (31, 15, [14, 29, 31]), (20, 0, [20])]
)
def test_evaluations_are_periodic_and_once_at_the_end(iterations, period, at):
    calls = []
    trainer = trainer_of(hooks.EvalHook(period, lambda: calls.append(trainer.iter)))
    trainer.train(0, iterations)
    assert calls == at


def test_the_evaluation_at_the_end_can_be_left_out():
    calls = []
    trainer_of(hooks.EvalHook(2, lambda: calls.append(1), eval_after_train=False)).train(0, 4)
    assert len(calls) == 1


def test_an_interrupted_training_is_not_evaluated():
    calls = []

    def fail(trainer):
        if trainer.iter == 3:
            raise ValueError("stop")

    trainer = trainer_of(
        hooks.CallbackHook(before_step=fail), hooks.EvalHook(0, lambda: calls.append(1))
    )
    with pytest.raises(ValueError):
        trainer.train(0, 9)
    assert calls == []


def test_results_become_scalars_that_are_not_smoothed():
    results = {"bbox": {"AP": 40, "AP50": torch.tensor(60.5)}, "speed": "3.5"}
    trainer = trainer_of(hooks.EvalHook(0, lambda: results))
    trainer.train(0, 2)
    latest = trainer.storage.latest()
    assert latest["bbox/AP"] == (40.0, 2)
    assert latest["bbox/AP50"] == (60.5, 2)
    assert latest["speed"] == (3.5, 2)
    assert trainer.storage.smoothing_hints()["bbox/AP"] is False


@pytest.mark.parametrize(
    ("results", "error"), [([1.0], TypeError), ({"bbox": {"AP": [1, 2]}}, ValueError)]
)
def test_results_must_be_a_dictionary_of_numbers(results, error):
    with pytest.raises(error, match="dictionary of numbers"):
        trainer_of(hooks.EvalHook(0, lambda: results)).train(0, 1)


def test_times_begin_with_the_third_iteration(caplog):
    trainer = trainer_of(hooks.IterationTimer(images_per_iteration=2))
    with caplog.at_level(logging.INFO):
        trainer.train(5, 15)
    times = trainer.storage.history("time").values()
    assert [iteration for _, iteration in times] == list(range(7, 15))
    assert all(0 < seconds < 1 for seconds, _ in times)
    speeds = trainer.storage.history("images_per_second").values()
    assert speeds == [(pytest.approx(2 / seconds), iteration) for seconds, iteration in times]
    assert "Overall training speed: 8 iterations in 0:00:0" in caplog.text
    assert "Total training time: 0:00:0" in caplog.text


def test_a_training_too_short_to_be_timed_says_nothing(caplog):
    with caplog.at_level(logging.INFO):
        trainer_of(hooks.IterationTimer()).train(0, 2)
    assert "Overall" not in caplog.text


def test_writers_write_periodically_at_the_last_iteration_and_at_the_end():
    log = []
    trainer = trainer_of(
        hooks.CallbackHook(after_step=lambda t: log.append(t.iter)),
        hooks.PeriodicWriter([Writes(log)], period=2),
    )
    trainer.train(0, 5)
    assert log == [0, 1, "write", 2, 3, "write", 4, "write", "write", "close"]
    with pytest.raises(TypeError, match="no EventWriter"):
        hooks.PeriodicWriter([print])


def test_convention_a_log_of_fifty_iterations(tmp_path, caplog):
    path = tmp_path / "metrics.json"
    trainer = trainer_of(
        hooks.IterationTimer(),
        hooks.EvalHook(0, lambda: {"metric": 100}),
        hooks.PeriodicWriter([CommonMetricPrinter(50), JSONWriter(str(path))]),
    )
    with caplog.at_level(logging.INFO, logger="detectron2.utils.events"):
        trainer.train(0, 50)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [19, 39, 49, 50]
    assert lines[-1] == {"iteration": 50, "metric": 100.0}
    printed = [record.message for record in caplog.records if "eta" in record.message]
    assert len(printed) == 3
    assert "eta: 0:00:00  iter: 49" in printed[-1]


def test_convention_rare_metrics_are_the_median_of_what_is_new(tmp_path):
    path = tmp_path / "metrics.json"
    model = Model()
    trainer = SimpleTrainer(
        model,
        endless(),
        torch.optim.SGD(model.parameters(), lr=0.01),
        gather_metric_period=5,
    )
    trainer.register_hooks([hooks.PeriodicWriter([JSONWriter(str(path), 10)], period=10)])
    trainer.train(0, 20)
    values = [value for value, _ in trainer.storage.history("total_loss").values()]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [9, 19]
    assert [line["total_loss"] for line in lines] == pytest.approx(
        [sum(values[:2]) / 2, sum(values[2:]) / 2]
    )


def test_checkpoints_are_periodic_and_the_oldest_are_removed(tmp_path):
    model = Model()
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    trainer_of(hooks.PeriodicCheckpointer(checkpointer, 2, max_to_keep=2), model=model).train(0, 9)
    files = sorted(name for name in os.listdir(tmp_path) if name.endswith(".pth"))
    assert files == ["model_0000005.pth", "model_0000007.pth", "model_final.pth"]


def best_of(values, mode, tmp_path, restored=None):
    """Number of times the best checkpoint is written over evaluations with these results."""
    model = Model()
    saved = []

    class Checkpointer(DetectionCheckpointer):
        def save(self, name, **kwargs):
            saved.append((name, kwargs["iteration"]))

    results = iter(values)
    best = hooks.BestCheckpointer(1, Checkpointer(model, str(tmp_path)), "metric", mode, "best")
    if restored is not None:
        best.load_state_dict(restored)
    trainer = trainer_of(hooks.EvalHook(1, lambda: {"metric": next(results)}), best, model=model)
    trainer.train(0, len(values))
    return saved, best


@pytest.mark.parametrize(
    ("values", "mode", "count", "value"),
    [
        ([0.3, 0.4, 0.35, 0.5], "max", 3, 0.5),
        ([1, 0.8, 0.9, 0.9], "min", 2, 0.8),
        ([float("nan"), 0.8, 0.9, 0.9], "min", 1, 0.8),
        ([float("inf"), 0.1, float("inf"), float("nan")], "max", 1, 0.1),
    ],
)
def test_the_best_checkpoint_is_written_at_each_improvement(values, mode, count, value, tmp_path):
    saved, best = best_of(values, mode, tmp_path)
    assert len(saved) == count
    assert best.best_metric == value
    assert {name for name, _ in saved} == {"best"}


def test_a_resumed_training_knows_the_best_so_far(tmp_path):
    _, best = best_of([0.3, 0.9], "max", tmp_path)
    state = best.state_dict()
    assert state == {"best_metric": 0.9, "best_iter": 2}
    saved, _ = best_of([0.5, 0.8], "max", tmp_path, restored=state)
    assert saved == []


def test_an_absent_metric_is_a_warning_with_the_known_ones(tmp_path, caplog):
    model = Model()
    best = hooks.BestCheckpointer(0, DetectionCheckpointer(model, str(tmp_path)), "segm/AP")
    trainer_of(best, model=model).train(0, 1)
    assert "no metric 'segm/AP'" in caplog.text
    assert "total_loss" in caplog.text
    assert os.listdir(tmp_path) == []


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'max' or 'min'"):
        hooks.BestCheckpointer(1, None, "x", "best")


def test_the_learning_rate_is_recorded_and_then_stepped():
    trainer = trainer_of(lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 2, gamma=0.1)
    trainer.register_hooks([hooks.LRScheduler(scheduler=schedule)])
    trainer.train(0, 5)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_a_schedule_of_fvcore_multiplies_the_learning_rate():
    trainer = trainer_of(lr=2.0)
    hook = hooks.LRScheduler(trainer.optimizer, LinearParamScheduler(1.0, 0.0))
    trainer.register_hooks([hook])
    assert hook.state_dict() == {}
    trainer.train(0, 4)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([2.0, 1.5, 1.0, 0.5])
    assert hook.state_dict()["last_epoch"] == 4


@pytest.mark.parametrize(
    "schedule",
    [
        ConstantParamScheduler(0.5),
        StepWithFixedGammaParamScheduler(base_value=0.5, num_decays=1, gamma=1.0, num_updates=4),
    ],
)
def test_schedules_that_end_with_the_last_iteration_are_not_asked_for_more(schedule):
    trainer = trainer_of(lr=2.0)
    hook = hooks.LRScheduler(scheduler=schedule)
    trainer.register_hooks([hook])
    trainer.train(0, 4)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([1.0] * 4)
    assert hook.state_dict()["last_epoch"] == 4


def test_a_schedule_of_fvcore_continues_in_the_middle():
    first = trainer_of(lr=2.0)
    first.register_hooks([hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 0.0))])
    first.train(0, 2)
    state = first.state_dict()

    second = trainer_of(lr=2.0)
    second.register_hooks([hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 0.0))])
    second.load_state_dict(state)
    second.train(2, 4)
    rates = [value for value, _ in second.storage.history("lr").values()]
    assert rates == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize(
    ("sizes", "rates", "best"),
    [([1, 3, 2], [1, 2, 3], 1), ([1, 1, 1, 1], [1, 2, 3, 2], 1), ([1], [5], 0)],
)
def test_the_recorded_learning_rate_is_that_of_most_parameters(sizes, rates, best):
    groups = [
        {"params": [nn.Parameter(torch.zeros(1)) for _ in range(size)], "lr": rate}
        for size, rate in zip(sizes, rates, strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    assert hooks.LRScheduler.get_best_param_group_id(optimizer) == best


class WithNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        return {"loss": self.norm(x).sum()}


def test_precise_statistics_are_those_of_the_batches():
    model = WithNorm()
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(64, 2, generator=generator) * 3 + 5 for _ in range(4)]
    hook = hooks.PreciseBN(0, model, data, num_iter=4)
    trainer_of(hook, model=model).train(0, 2)
    mean = torch.cat(data).mean(dim=0)
    torch.testing.assert_close(model.norm.running_mean, mean)
    assert model.norm.running_var.mean() == pytest.approx(9, rel=0.2)


def test_precise_statistics_follow_the_period():
    calls = []

    class Hook(hooks.PreciseBN):
        def update_stats(self):
            calls.append(self.trainer.iter)

    trainer_of(Hook(2, WithNorm(), [], 1)).train(0, 5)
    assert calls == [1, 3, 4]


def test_precise_statistics_are_off_without_batch_norm(caplog):
    with caplog.at_level(logging.INFO):
        hook = hooks.PreciseBN(1, Model(), [], 1)
    hook.update_stats()
    assert "nothing to do" in caplog.text


def test_a_profile_of_chosen_iterations_is_written(tmp_path):
    trainer = trainer_of(
        hooks.TorchProfiler(lambda t: t.iter == 1, str(tmp_path), save_tensorboard=False)
    )
    trainer.train(0, 3)
    assert os.listdir(tmp_path) == ["profiler-trace-iter1.json"]
    events = json.loads((tmp_path / "profiler-trace-iter1.json").read_text())["traceEvents"]
    assert any("aten::" in event.get("name", "") for event in events)


def test_a_profile_for_tensorboard_is_written_below_log(tmp_path):
    trainer_of(hooks.TorchProfiler(lambda t: t.iter == 0, str(tmp_path))).train(0, 2)
    (folder,) = os.listdir(tmp_path / "log")
    assert folder == "profiler-tensorboard-iter0"
    (file,) = os.listdir(tmp_path / "log" / folder)
    assert file.endswith(".pt.trace.json")


def test_the_older_profiler_warns(tmp_path):
    with pytest.warns(DeprecationWarning, match="TorchProfiler"):
        hook = hooks.AutogradProfiler(lambda t: True, str(tmp_path), use_cuda=False)
    trainer_of(hook).train(0, 1)
    assert os.listdir(tmp_path) == ["profiler-trace-iter0.json"]


def test_memory_is_logged_a_few_times(caplog, monkeypatch):
    numbers = {"memory_reserved": 3, "max_memory_reserved": 4, "memory_allocated": 1}
    for name, value in {**numbers, "max_memory_allocated": 2}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value * 2**20)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_summary", lambda: "the table")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    with caplog.at_level(logging.INFO):
        trainer_of(hooks.TorchMemoryStats(period=2, max_runs=2)).train(0, 9)
    assert [m.split(":")[0] for m in caplog.messages if "GPU memory" in m] == [
        "GPU memory at iteration 1",
        "GPU memory at iteration 3",
    ]
    assert "reserved 3 MB, peak reserved 4 MB, allocated 1 MB, peak allocated 2 MB" in caplog.text
    assert caplog.text.count("the table") == 1


def test_memory_is_not_logged_without_a_gpu(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO):
        trainer_of(hooks.TorchMemoryStats(period=1)).train(0, 3)
    assert "GPU memory" not in caplog.text
