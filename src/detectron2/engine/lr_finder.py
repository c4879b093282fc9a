"""Which learning rate suits a model and its data: a short training with a rising one."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from detectron2.utils.events import EventStorage

__all__ = ["LearningRates", "find_learning_rate"]

logger = logging.getLogger(__name__)

_SMOOTHING = 0.8  # weight of the past in the average of the losses
_DIVERGED = 3.0  # times the smallest loss, above which the rate is too high


@dataclass(frozen=True)
class LearningRates:
    """Result of `find_learning_rate`.

    Attributes:
        rates: tried, rising.
        losses: smoothed, one for each rate.
        suggested: where the loss falls steepest.
    """

    rates: list[float]
    losses: list[float]
    suggested: float


def find_learning_rate(
    model: nn.Module,
    data_loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
) -> LearningRates:
    """Train for some steps with a rate that rises by the same factor each time (Smith 2017).

    Model and optimizer are as before afterwards.

    Args:
        model: returns losses in training mode.
        data_loader: training batches.
        optimizer: of the model; relations between its groups' rates are kept.
        lowest: rate of the first step, of the group with the highest.
        highest: rate of the last step; it ends earlier when the loss diverges.
        steps: at most.

    Raises:
        ValueError: the range is empty, or the loss is not finite from the beginning.
    """
    if not 0 < lowest < highest or steps < 2:
        raise ValueError(f"Cannot try {steps} learning rates from {lowest} to {highest}.")
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    planned = [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]
    rates: list[float] = []
    losses: list[float] = []
    try:
        for rate, loss in _losses_at(planned, model, data_loader, optimizer):
            past = losses[-1] if losses else loss
            rates.append(rate)
            losses.append(_SMOOTHING * past + (1 - _SMOOTHING) * loss)
            if losses[-1] > _DIVERGED * min(losses):
                break
    finally:
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
    if len(losses) < 2:
        raise ValueError("The loss is not finite from the beginning, whatever the learning rate.")
    result = LearningRates(rates, losses, _steepest(rates, losses))
    logger.info("The loss falls steepest at learning rate %.3g.", result.suggested)
    return result


def _losses_at(
    rates: list[float],
    model: nn.Module,
    data_loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
) -> Iterator[tuple[float, float]]:
    """(rate, loss) of a training step at each rate, until a loss is not finite."""
    largest = max(group["lr"] for group in optimizer.param_groups)
    shares = [group["lr"] / largest for group in optimizer.param_groups]
    for rate, batch in zip(rates, data_loader):
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] = rate * share
        with EventStorage():
            loss = _step(model, batch, optimizer)
        if not math.isfinite(loss):
            return
        yield rate, loss


def _step(model: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> float:
    losses = model(batch)
    loss: Any = sum(losses.values()) if isinstance(losses, dict) else losses
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _steepest(rates: list[float], losses: list[float]) -> float:
    """Rate of the largest fall before the smallest loss; slopes are per factor of the rate."""
    end = max(losses.index(min(losses)), 1)
    falls = [losses[i] - losses[i + 1] for i in range(end)]
    return rates[falls.index(max(falls))]
