"""Evaluation that does not stop training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import nn

from detectron2.engine.hooks.evaluation import flat_numbers
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

__all__ = ["BackgroundEvalHook"]

logger = logging.getLogger(__name__)


class BackgroundEvalHook(HookBase):
    """Evaluates a copy of the model in a thread while training goes on.

    Results become scalars when they are there, beside "evaluated_iteration", the iteration that
    they are of. One evaluation runs at a time: a next one that is due before is passed over, and
    the log says so. The last one is waited for.
    """

    def __init__(
        self,
        eval_period: int,
        model: nn.Module,
        eval_function: Callable[[nn.Module], Mapping[str, Any] | None],
        eval_after_train: bool = True,
    ) -> None:
        """
        Args:
            eval_period: iterations between two evaluations; 0 means only at the end.
            model: that is trained. Each evaluation takes the memory of a second one.
            eval_function: takes a model, returns numbers by name as for `EvalHook`.
            eval_after_train: evaluate at the end of a complete training.

        Raises:
            ValueError: there are several processes, whose communication in two threads would mix.
        """
        if comm.get_world_size() > 1:
            raise ValueError(
                "BackgroundEvalHook is for training in one process; with "
                f"{comm.get_world_size()} use EvalHook."
            )
        self._period = eval_period
        self._model = model
        self._func = eval_function
        self._eval_after_train = eval_after_train
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self._running: Future[Mapping[str, Any] | None] | None = None
        self._iteration = 0

    def after_step(self) -> None:
        self._report_if_done()
        done = self.trainer.iter + 1
        # The evaluation after the last iteration belongs to after_train.
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._start()

    def after_train(self) -> None:
        self._wait()
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._start()
            self._wait()
        self._pool.shutdown()

    def _start(self) -> None:
        if self._running is not None:
            logger.warning(
                "Iteration %d is not evaluated: the evaluation of iteration %d is still running.",
                self.trainer.iter, self._iteration,
            )  # fmt: skip
            return
        snapshot = copy.deepcopy(getattr(self._model, "module", self._model))
        self._iteration = self.trainer.iter
        self._running = self._pool.submit(self._func, snapshot.eval())

    def _wait(self) -> None:
        if self._running is not None:
            self._running.exception()  # waits
            self._report_if_done()

    def _report_if_done(self) -> None:
        if self._running is None or not self._running.done():
            return
        results, self._running = self._running.result(), None
        numbers = {"evaluated_iteration": float(self._iteration), **flat_numbers(results or {})}
        for name, value in numbers.items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
