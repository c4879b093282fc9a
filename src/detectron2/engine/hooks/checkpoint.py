"""Saving checkpoints during training."""

from __future__ import annotations

import logging
import math
import operator
import os
import re
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
        if self.max_to_keep is not None and self.trainer.start_iter > 0:
            self.recent_checkpoints = self._earlier_checkpoints()

    def _earlier_checkpoints(self) -> list[str]:
        """Those of the training before it was resumed, which count too."""
        prefix, suffix = re.escape(self.file_prefix), re.escape(self._suffix)
        pattern = re.compile(rf"{prefix}_(\d{{7}}){suffix}$")
        found = []
        for file in self.checkpointer.get_all_checkpoint_files():
            match = pattern.search(os.path.basename(file))
            if match and int(match.group(1)) < self.trainer.start_iter:
                found.append(file)
        return sorted(found)

    def after_step(self) -> None:
        self.step(self.trainer.iter)

    def step(self, iteration: int, **kwargs: Any) -> None:
        """Save at the end of a period, and after the last iteration."""
        done = iteration + 1
        if self.period > 0 and done % self.period == 0:
            name = f"{self.file_prefix}_{iteration:07d}"
            self.checkpointer.save(name, iteration=iteration, **kwargs)
            if self.max_to_keep is not None:
                # Before this save every earlier file was complete, and this one may not be yet.
                self._remove_all_but(self.max_to_keep)
                self.recent_checkpoints.append(self._path(name))
                if not getattr(self.checkpointer, "in_background", False):
                    self._remove_all_but(self.max_to_keep)
        if self.max_iter is not None and iteration >= self.max_iter - 1:
            self.checkpointer.save(f"{self.file_prefix}_final", iteration=iteration, **kwargs)

    def _path(self, name: str) -> str:
        return os.path.join(self.checkpointer.save_dir, f"{name}{self._suffix}")

    @property
    def _suffix(self) -> str:
        return getattr(self.checkpointer, "suffix", ".pth")  # fvcore's own has none

    def _remove_all_but(self, count: int) -> None:
        while len(self.recent_checkpoints) > count:
            file = self.recent_checkpoints.pop(0)
            if self.path_manager.exists(file) and not file.endswith(
                f"{self.file_prefix}_final{self._suffix}"
            ):
                getattr(self.checkpointer, "remove", self.path_manager.rm)(file)

    def after_train(self) -> None:
        if hasattr(self.checkpointer, "wait"):
            self.checkpointer.wait()
        if self.max_to_keep is not None:
            self._remove_all_but(self.max_to_keep)


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
        keep: int = 1,
    ) -> None:
        """
        Args:
            eval_period: iterations between two evaluations; 0 means only at the end.
            checkpointer: saves the checkpoint.
            val_metric: scalar of the event storage, such as ``"bbox/AP50"``.
            mode: ``"max"`` or ``"min"``, what is better.
            file_prefix: name of the file, without its extension.
            keep: how many of the best to keep; with more than one the names end with the
                iteration.

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
        self._keep = keep
        self._kept: list[tuple[float, str]] = []  # value and name, the best first
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
        if self.best_metric is None or self._is_better(value, self.best_metric):
            self.best_metric, self.best_iter = value, at
        elif self._keep == 1 or not self._belongs_to_the_best(value):
            logger.info(
                "%s is %.5f; the best is still %.5f of iteration %s.",
                self._val_metric,
                value,
                self.best_metric,
                self.best_iter,
            )
            return
        self._save(value)

    def _belongs_to_the_best(self, value: float) -> bool:
        return len(self._kept) < self._keep or self._is_better(value, self._kept[-1][0])

    def _save(self, value: float) -> None:
        name = self._file_prefix
        if self._keep > 1:
            name += f"_{self.trainer.iter:07d}"
            self._kept.append((value, name))
            self._kept.sort(key=lambda entry: entry[0], reverse=self._is_better is operator.gt)
        self._checkpointer.save(name, iteration=self.trainer.iter)
        logger.info("%s is %.5f: saved as %s.", self._val_metric, value, name)
        for _, other in self._kept[self._keep :]:
            file = os.path.join(self._checkpointer.save_dir, f"{other}.pth")
            if self._checkpointer.path_manager.exists(file):
                self._checkpointer.path_manager.rm(file)
        del self._kept[self._keep :]

    def state_dict(self) -> dict[str, Any]:
        """The best value, so that a resumed training does not overwrite a better checkpoint."""
        if self.best_metric is None:
            return {}
        state = {"best_metric": self.best_metric, "best_iter": self.best_iter}
        return {**state, "kept": [list(e) for e in self._kept]} if self._kept else state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.best_metric = state_dict["best_metric"]
        self.best_iter = state_dict["best_iter"]
        self._kept = [(value, name) for value, name in state_dict.get("kept", [])]
