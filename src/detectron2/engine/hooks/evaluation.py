"""Evaluation during training, and what prepares the model for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from torch import nn

from detectron2.engine._random_state import unchanged_random_state
from detectron2.engine.train_loop import HookBase
from detectron2.layers._fvcore_nn import get_bn_modules, update_bn_stats
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

__all__ = ["EvalHook", "PreciseBN"]

logger = logging.getLogger(__name__)


class EvalHook(HookBase):
    """Calls an evaluation regularly and puts its results as scalars.

    Every process must have the hook: they wait for each other after the evaluation.
    """

    def __init__(
        self,
        eval_period: int,
        eval_function: Callable[[], Mapping[str, Any] | None],
        eval_after_train: bool = True,
    ) -> None:
        """
        Args:
            eval_period: iterations between two evaluations; 0 means only at the end.
            eval_function: returns numbers by name, may be nested: ``{"bbox": {"AP": 40.2}}``
                becomes the scalar ``bbox/AP``.
            eval_after_train: evaluate at the end of a complete training.
        """
        self._period = eval_period
        self._func: Callable[[], Mapping[str, Any] | None] | None = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        assert self._func is not None
        # A training that is resumed from the checkpoint before this evaluation skips it, and must
        # see the same random numbers.
        with unchanged_random_state():
            results = self._func()
        for name, value in flat_numbers(results or {}).items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        # Evaluation takes the main process longer than the others, which would otherwise
        # run into a timeout in the next iteration.
        comm.synchronize()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        # The evaluation after the last iteration belongs to after_train.
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        # It often holds the trainer, which would then never be freed.
        self._func = None


def flat_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    from detectron2.evaluation.testing import flatten_results_dict

    if not isinstance(results, Mapping):
        raise TypeError(
            f"The evaluation function returned a {type(results).__name__}; it must return a "
            "dictionary of numbers."
        )
    numbers = {}
    for name, value in flatten_results_dict(dict(results)).items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"The evaluation function returned {value!r} as {name!r}; it must return a "
                "dictionary of numbers, which may be nested."
            ) from None
    return numbers


class PreciseBN(HookBase):
    """Recomputes the statistics of batch normalization over many batches.

    Training keeps a moving average, which lags behind the weights and is noisy with small
    batches (Wu and Johnson, arXiv:2105.07576, section 3). Register it before the `EvalHook`.
    """

    def __init__(self, period: int, model: nn.Module, data_loader: Any, num_iter: int) -> None:
        """
        Args:
            period: iterations between two updates; 0 means only at the end.
            model: whose layers to update, those in training mode.
            data_loader: yields the model's inputs.
            num_iter: batches to average over.
        """
        self._period = period
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter
        self._disabled = not get_bn_modules(model)
        if self._disabled:
            logger.info("PreciseBN has nothing to do: no batch norm layer is in training mode.")
        self._data_iter: Any = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        is_final = done == self.trainer.max_iter
        if is_final or (self._period > 0 and done % self._period == 0):
            self.update_stats()

    def update_stats(self) -> None:
        """Update the statistics of the layers now."""
        if self._disabled:
            return
        if self._data_iter is None:
            self._data_iter = iter(self._data_loader)
        # What the model puts while it sees these batches is no part of the training.
        with EventStorage(), unchanged_random_state():
            logger.info("Computing batch norm statistics over %d batches ...", self._num_iter)
            update_bn_stats(self._model, islice(self._data_iter, self._num_iter), self._num_iter)

    def state_dict(self) -> dict[str, Any]:
        """Where its loader is in the data, if the loader knows."""
        if self._data_iter is None or not hasattr(self._data_loader, "state_dict"):
            return {}
        return {"data_loader": self._data_loader.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if hasattr(self._data_loader, "load_state_dict"):
            self._data_loader.load_state_dict(state_dict["data_loader"])
            self._data_iter = None
