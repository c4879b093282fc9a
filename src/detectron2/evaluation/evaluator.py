"""Evaluators, and the loop that feeds them."""

from __future__ import annotations

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from detectron2.data._read_once import forget_files
from detectron2.evaluation.box_masks import box_masks_for
from detectron2.evaluation.resuming import prepare
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "inference_context",
    "inference_on_dataset",
]

logger = logging.getLogger(__name__)

Callbacks = Mapping[str, Callable[[], object]]
_WARM_UP_STEPS = 5  # first steps allocate and compile; their times say nothing about the rest
_SECONDS_BETWEEN_REPORTS = 5


class DatasetEvaluator:
    """Takes the inputs and outputs of a model, batch by batch, and turns them into metrics."""

    def reset(self) -> None:
        """Forget everything; called before each run over a dataset."""

    def begin(self, identity: Mapping[str, Any], resume: bool) -> None:
        """Called after `reset`: what will be processed, and whether to take up an earlier run.

        Args:
            identity: JSON values that tell one model and dataset from another.
            resume: keep what a run of that identity has left, if this evaluator keeps anything.
        """

    def is_finished(self, record: Mapping[str, Any]) -> bool:
        """Whether an earlier run that was taken up has processed this input."""
        return False

    def takes_box_masks(self) -> bool:
        """Whether `process` understands masks on boxes (ROIMasks) in place of full images."""
        return False

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take in a batch.

        Args:
            inputs: what the model was called with, one dictionary per image.
            outputs: what it returned, in the same order.
        """

    def evaluate(self) -> Mapping[str, Any] | None:
        """Compute the metrics of everything processed since `reset`.

        Returns:
            ``{task: {metric: value}}`` on the main process; None or an empty dictionary elsewhere.
        """


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one: each sees every batch, and their results are put together."""

    def __init__(self, evaluators: Iterable[DatasetEvaluator]) -> None:
        super().__init__()
        self._evaluators = list(evaluators)

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def begin(self, identity: Mapping[str, Any], resume: bool) -> None:
        for evaluator in self._evaluators:
            evaluator.begin(identity, resume)

    def is_finished(self, record: Mapping[str, Any]) -> bool:
        return all(evaluator.is_finished(record) for evaluator in self._evaluators)

    def takes_box_masks(self) -> bool:
        return all(evaluator.takes_box_masks() for evaluator in self._evaluators)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict[str, Any]:
        """Union of the results.

        Raises:
            AssertionError: two evaluators report the same task.
        """
        union: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            results = evaluator.evaluate()
            if not is_main_process() or results is None:
                continue
            for task, metrics in results.items():
                if task in union:
                    raise AssertionError(
                        f"Two evaluators report {task!r}, the second is "
                        f"{type(evaluator).__name__}; give their tasks different names."
                    )
                union[task] = metrics
        return union


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode, and back into the mode it was in afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Progress:
    """Where the time of an inference loop goes, and when the loop will end."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.warm_up = _WARM_UP_STEPS if total is None else min(_WARM_UP_STEPS, total - 1)
        self.parts = {"data": 0.0, "compute": 0.0, "eval": 0.0}
        self.steps = 0  # counted since the end of the warm-up
        self.done = 0
        self._start = self._mark = time.perf_counter()

    def count(self, part: str) -> None:
        """Book the time since the last call as time spent on `part`."""
        now = time.perf_counter()
        self.parts[part] += now - self._mark
        self._mark = now

    def step(self) -> None:
        """One batch is done."""
        self.steps += 1
        self.done += 1
        if self.done == self.warm_up:
            self.parts = dict.fromkeys(self.parts, 0.0)
            self.steps = 0
            self._start = self._mark

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._start

    def report(self) -> str:
        steps = max(self.steps, 1)
        per_step = self.elapsed / steps
        total, eta = "?", "unknown"
        if self.total is not None:
            total = str(self.total)
            eta = str(datetime.timedelta(seconds=int(per_step * (self.total - self.done))))
        return (
            f"Inference done {self.done}/{total}. "
            f"Dataloading: {self.parts['data'] / steps:.4f} s/iter. "
            f"Inference: {self.parts['compute'] / steps:.4f} s/iter. "
            f"Eval: {self.parts['eval'] / steps:.4f} s/iter. "
            f"Total: {per_step:.4f} s/iter. ETA={eta}"
        )

    def summary(self, devices: int) -> str:
        steps = max(self.steps, 1)
        lines = [
            f"{name}: {datetime.timedelta(seconds=int(seconds))} "
            f"({seconds / steps:.6f} s / iter per device, on {devices} devices)"
            for name, seconds in (
                ("Total inference time", self.elapsed),
                ("Total inference pure compute time", self.parts["compute"]),
            )
        ]
        return "\n".join(lines)


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Iterable[Any],
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: Callbacks | None = None,
    *,
    resume: bool = False,
) -> Mapping[str, Any]:
    """Run `model` over a dataset and evaluate what it returns.

    Args:
        model: called with each batch; a module runs in evaluation mode, without gradients, and
            gets its mode back.
        data_loader: batches; with a length, the log says when the loop will end.
        evaluator: one or several; None only runs the model, for instance to time it.
        callbacks: functions without arguments to call at "on_start", before and after each call
            of the model ("before_inference", "after_inference"), and at "on_end".
        resume: go on where a run of the same model was killed; needs evaluators that keep their
            predictions in an output folder. Others see every image again.

    Returns:
        What ``evaluator.evaluate()`` returns; an empty dictionary instead of None.
    """
    forget_files()
    callbacks = callbacks or {}
    evaluator = _as_one_evaluator(evaluator)
    evaluator.reset()
    data_loader = prepare(model, data_loader, evaluator, resume)
    total = _length(data_loader)
    devices = get_world_size()
    logger.info(f"Start inference on {'?' if total is None else total} batches")
    progress = _Progress(total)
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(box_masks_for(model, evaluator))
        _call(callbacks, "on_start")
        for inputs in data_loader:
            progress.count("data")
            _step(model, inputs, evaluator, progress, callbacks)
            log_every_n_seconds(
                logging.INFO, progress.report(), n=_SECONDS_BETWEEN_REPORTS, name=__name__
            )
        _call(callbacks, "on_end")
    for line in progress.summary(devices).splitlines():
        logger.info(line)
    results = evaluator.evaluate()
    return {} if results is None else results


def _length(data_loader: Iterable[Any]) -> int | None:
    """Number of batches; None where that is not known beforehand."""
    if not isinstance(data_loader, Sized):
        return None
    try:
        return len(data_loader)
    except TypeError:  # a DataLoader over an iterable dataset has a __len__ that refuses
        return None


def _as_one_evaluator(
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
) -> DatasetEvaluator:
    if evaluator is None:
        return DatasetEvaluators([])
    if isinstance(evaluator, Sequence):
        return DatasetEvaluators(evaluator)
    return evaluator


def _step(
    model: Callable[[Any], Any],
    inputs: Any,
    evaluator: DatasetEvaluator,
    progress: _Progress,
    callbacks: Callbacks,
) -> None:
    _call(callbacks, "before_inference")
    outputs = model(inputs)
    _call(callbacks, "after_inference")
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # without it the time of the kernels lands in the next part
    progress.count("compute")
    evaluator.process(inputs, outputs)
    progress.count("eval")
    progress.step()


def _call(callbacks: Callbacks, name: str) -> None:
    callbacks.get(name, lambda: None)()
