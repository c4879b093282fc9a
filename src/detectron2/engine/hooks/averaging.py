"""An average of the weights over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.engine.train_loop import HookBase

__all__ = ["EMAHook"]


class EMAHook(HookBase):
    """Keeps an exponential moving average of weights and statistics, which often tests better.

    The average is part of the checkpoint. Evaluate it inside ``with hook.applied():``.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998) -> None:
        """
        Args:
            model: whose floating point parameters and buffers are averaged.
            decay: weight of the old average, below 1. It is smaller in the first iterations, so
                that the random weights of the beginning do not stay.

        Raises:
            ValueError: the decay is out of range.
        """
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"The decay of the average is {decay}; it must be in [0, 1).")
        self._decay = decay
        self._model = model
        self._average: dict[str, Tensor] = {}
        self._steps = 0

    def _weights(self) -> dict[str, Tensor]:
        model = getattr(self._model, "module", self._model)
        return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}

    def before_train(self) -> None:
        if not self._average:
            self._average = {name: value.clone() for name, value in self._weights().items()}

    def after_step(self) -> None:
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        weights = self._weights()
        averages = [self._average[name] for name in weights]
        torch._foreach_lerp_(averages, list(weights.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While the block runs, the model has the average as its weights."""
        weights = self._weights()
        trained = {name: value.clone() for name, value in weights.items()}
        try:
            self._copy(self._average or trained, weights)
            yield
        finally:
            self._copy(trained, weights)

    @staticmethod
    def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in target.items():
                value.copy_(source[name])

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of steps in it."""
        return {"average": self._average, "steps": self._steps}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        weights = self._weights()
        self._average = {
            name: value.to(weights[name].device, copy=True)
            for name, value in state_dict["average"].items()
            if name in weights
        }
        self._steps = state_dict["steps"]
