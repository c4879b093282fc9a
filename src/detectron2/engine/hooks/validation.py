"""Losses on data that is not trained on, and the end of a training that gains nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detectron2.engine._random_state import unchanged_random_state
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

__all__ = ["EarlyStopping", "ValidationLoss"]

logger = logging.getLogger(__name__)


class ValidationLoss(HookBase):
    """Puts ``validation/total_loss`` and its parts regularly, the same batches each time."""

    def __init__(self, period: int, model: nn.Module, batches: Iterable[Any]) -> None:
        """
        Args:
            period: iterations between two computations; 0 means only at the end.
            model: returns losses in training mode.
            batches: what the model takes, with annotations.
        """
        self._period = period
        self._model = model
        self._batches = batches

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            losses = self.compute()
            for name, value in losses.items():
                self.trainer.storage.put_scalar(f"validation/{name}", value, smoothing_hint=False)

    def compute(self) -> dict[str, float]:
        """Means over all batches and processes, with ``total_loss``; the model is not changed."""
        model = getattr(self._model, "module", self._model)
        # Batch normalization must neither learn from these images nor depend on their mixture.
        layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
        sums: dict[str, float] = {}
        count = 0
        with unchanged_random_state(), EventStorage(), torch.no_grad():
            seed_all_rng(0)  # the sampling of proposals is the same each time
            for layer in layers:
                layer.eval()
            try:
                for batch in self._batches:
                    count += 1
                    for name, value in model(batch).items():
                        sums[name] = sums.get(name, 0.0) + float(value)
            finally:
                for layer in layers:
                    layer.train()
        everyone = comm.all_gather((sums, count))
        total = sum(number for _, number in everyone)
        means = {name: sum(s.get(name, 0.0) for s, _ in everyone) / max(total, 1) for name in sums}
        return {"total_loss": sum(means.values()), **means}


class EarlyStopping(HookBase):
    """Ends a training whose metric has not become better for some evaluations.

    Register it after the `EvalHook`. The last iteration is saved as ``model_final``.
    """

    def __init__(self, checkpointer: Any, metric: str, patience: int, mode: str = "max") -> None:
        """
        Args:
            checkpointer: saves the last checkpoint.
            metric: scalar of the event storage, such as ``"bbox/AP"``.
            patience: evaluations in a row without a better value that are waited for.
            mode: ``"max"`` or ``"min"``, what is better.

        Raises:
            ValueError: another `mode`.
        """
        if mode not in ("max", "min"):
            raise ValueError(f"mode is {mode!r}; use 'max' or 'min'.")
        self._checkpointer = checkpointer
        self._metric = metric
        self._patience = patience
        self._sign = 1.0 if mode == "max" else -1.0
        self._best = -math.inf
        self._worse = 0
        self._seen = -1

    def after_step(self) -> None:
        value, at = self.trainer.storage.latest().get(self._metric, (math.nan, -1))
        is_new = at == self.trainer.iter and at != self._seen
        # The main process alone knows the metric; the others stop with it.
        if not comm.all_gather(is_new)[0]:
            return
        self._seen = at
        if self._sign * value > self._best:
            self._best, self._worse = self._sign * value, 0
        else:
            self._worse += 1
        if comm.all_gather(self._worse)[0] >= self._patience:
            self._stop()

    def _stop(self) -> None:
        logger.info(
            "%s has not become better than %.5g in %d evaluations: the training ends here.",
            self._metric,
            self._sign * self._best,
            self._patience,
        )
        self.trainer.max_iter = self.trainer.iter + 1
        self._checkpointer.save("model_final", iteration=self.trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        """The best value, and how many evaluations ago it was."""
        return {"best": self._best, "worse": self._worse, "seen": self._seen}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._best, self._worse = state_dict["best"], state_dict["worse"]
        self._seen = state_dict["seen"]
