"""Saving checkpoints during training."""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Mapping
from typing import Any

from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer

from detectron2.engine.train_loop import HookBase

__all__ = ["BestCheckpointer", "PeriodicCheckpointer"]

logger = logging.getLogger(__name__)


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's `PeriodicCheckpointer` as a hook.

    Writes ``model_0004999.pth`` ... every `period` iterations and ``model_final.pth`` after
    the last one. Register it after the hooks whose state belongs into the checkpoint.
    """

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Keeps the checkpoint with the best value of an evaluation metric.

    Register it after the `EvalHook` with the same period.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        """
        Args:
            eval_period: iterations between two evaluations; 0 means only at the end.
            checkpointer: saves the checkpoint.
            val_metric: scalar of the event storage, such as ``"bbox/AP50"``.
            mode: ``"max"`` or ``"min"``, what is better.
            file_prefix: name of the file, without its extension.

        Raises:
            ValueError: another `mode`.
        """
        if mode not in ("max", "min"):
            raise ValueError(f"mode is {mode!r}; use 'max' or 'min'.")
        self._is_better = operator.gt if mode == "max" else operator.lt
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._save_if_better()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._save_if_better()

    def _save_if_better(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning(
                "There is no metric %r to choose the best checkpoint by; known are %s.",
                self._val_metric,
                sorted(self.trainer.storage.latest()),
            )
            return
        value, at = latest
        if not math.isfinite(value):
            return
        if self.best_metric is not None and not self._is_better(value, self.best_metric):
            logger.info(
                "%s is %.5f; the best is still %.5f of iteration %s.",
                self._val_metric,
                value,
                self.best_metric,
                self.best_iter,
            )
            return
        self.best_metric, self.best_iter = value, at
        self._checkpointer.save(self._file_prefix, iteration=self.trainer.iter)
        logger.info("%s is %.5f, the best so far: saved.", self._val_metric, value)

    def state_dict(self) -> dict[str, Any]:
        """The best value, so that a resumed training does not overwrite a better checkpoint."""
        if self.best_metric is None:
            return {}
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.best_metric = state_dict["best_metric"]
        self.best_iter = state_dict["best_iter"]
