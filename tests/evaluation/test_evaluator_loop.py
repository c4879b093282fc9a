import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
)


class Recorder(DatasetEvaluator):
    """Keeps what it sees; evaluates to the number of images."""

    def __init__(self, task="count"):
        self.task = task

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += list(zip(inputs, outputs))

    def evaluate(self):
        return {self.task: {"images": len(self.seen)}}


class Model(nn.Module):
    def forward(self, inputs):
        self.mode = (self.training, torch.is_grad_enabled())
        return [{"output": x} for x in inputs]


class TestLoop:
    def test_every_batch_reaches_the_evaluator_with_its_outputs(self):
        evaluator = Recorder()
        batches = [[1, 2], [3], [4, 5, 6]]
        assert inference_on_dataset(Model(), batches, evaluator) == {"count": {"images": 6}}
        assert evaluator.seen == [(x, {"output": x}) for x in range(1, 7)]

    @pytest.mark.parametrize("training", [True, False])
    def test_the_model_runs_in_evaluation_mode_and_gets_its_mode_back(self, training):
        model = Model().train(training)
        inference_on_dataset(model, [[1]], Recorder())
        assert model.mode == (False, False)
        assert model.training is training

    def test_the_mode_comes_back_after_an_error(self):
        model = Model().train()
        with pytest.raises(KeyError), inference_context(model):
            raise KeyError
        assert model.training

    def test_any_function_can_be_the_model(self):
        results = inference_on_dataset(lambda batch: batch, [[1], [2]], Recorder())
        assert results == {"count": {"images": 2}}

    def test_without_evaluator_the_model_only_runs(self):
        model = Model()
        assert inference_on_dataset(model, [[1]], None) == {}
        assert model.mode == (False, False)

    def test_a_list_of_evaluators_is_one(self):
        results = inference_on_dataset(Model(), [[1], [2]], [Recorder("a"), Recorder("b")])
        assert results == {"a": {"images": 2}, "b": {"images": 2}}

    def test_a_result_of_none_is_an_empty_dictionary(self):
        assert inference_on_dataset(Model(), [[1]], DatasetEvaluator()) == {}

    def test_callbacks_are_called_around_the_loop_and_each_batch(self):
        calls = []
        names = ("on_start", "before_inference", "after_inference", "on_end")
        callbacks = {name: lambda name=name: calls.append(name) for name in names}
        inference_on_dataset(Model(), [[1], [2]], None, callbacks)
        step = ["before_inference", "after_inference"]
        assert calls == ["on_start", *step, *step, "on_end"]

    def test_the_log_tells_where_the_time_goes(self, caplog):
        caplog.set_level(logging.INFO)
        inference_on_dataset(Model(), [[i] for i in range(8)], None)
        assert "Start inference on 8 batches" in caplog.text
        assert "Total inference time" in caplog.text
        assert "Total inference pure compute time" in caplog.text

    @pytest.mark.parametrize("kind", ["generator", "iterable dataset"])
    def test_a_loader_without_length_is_fine(self, caplog, kind):
        class Counting(IterableDataset):
            def __iter__(self):
                return iter(range(3))

        caplog.set_level(logging.INFO)
        loader = DataLoader(Counting(), collate_fn=list)
        batches = loader if kind == "iterable dataset" else ([i] for i in range(3))
        results = inference_on_dataset(Model(), batches, Recorder())
        assert results == {"count": {"images": 3}}
        assert "Start inference on ? batches" in caplog.text

    def test_an_empty_loader_is_fine(self):
        assert inference_on_dataset(Model(), [], Recorder()) == {"count": {"images": 0}}


class TestProgress:
    def test_the_report_has_time_per_part_and_the_time_left(self, monkeypatch):
        from detectron2.evaluation import evaluator as module

        clock = iter(range(1000))
        monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
        progress = module._Progress(total=100)
        for _ in range(10):
            for part in ("data", "compute", "eval"):
                progress.count(part)
            progress.step()
        report = progress.report()
        assert report.startswith("Inference done 10/100.")
        assert "Dataloading: 1.0000 s/iter. Inference: 1.0000 s/iter. Eval: 1.0000" in report
        # The first five steps do not count; each of the others took three ticks.
        assert "Total: 3.2" in report
        assert "ETA=0:04:4" in report


class TestEvaluators:
    def test_two_evaluators_may_not_report_the_same_task(self):
        evaluators = DatasetEvaluators([Recorder("a"), Recorder("a")])
        with pytest.raises(AssertionError, match="Two evaluators report 'a'.*Recorder"):
            inference_on_dataset(Model(), [[1]], evaluators)

    def test_an_evaluator_without_results_adds_nothing(self):
        evaluators = DatasetEvaluators([DatasetEvaluator(), Recorder("a")])
        assert list(inference_on_dataset(Model(), [[1]], evaluators)) == ["a"]
