"""Learning-rate schedules: a multiplier over the course of training, with warm-up."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = [
    "LRMultiplier",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "WarmupParamScheduler",
    "WarmupScheduler",
]


class WarmupParamScheduler(CompositeParamScheduler):
    """Another schedule with a gentler beginning.

    As every fvcore schedule it is a function of the progress of training, a number in [0, 1).
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """
        Args:
            scheduler: the schedule after the warm-up.
            warmup_factor: the warm-up begins at this part of the schedule's first value.
            warmup_length: part of training, in [0, 1], that the warm-up takes.
            warmup_method: ``"linear"`` reaches the schedule at the end of the warm-up,
                ``"constant"`` stays where it begins.
            rescale_interval: squeeze the whole schedule into the time after the warm-up,
                rather than hide its beginning.

        Raises:
            ValueError: another `warmup_method`.
        """
        first = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            last = scheduler(0.0 if rescale_interval else warmup_length)
            warmup: ParamScheduler = LinearParamScheduler(first, last)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(first)
        else:
            raise ValueError(
                f"The warm-up method is {warmup_method!r}; use 'linear' or 'constant'."
            )
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Multiplies the first learning rate of every group by an fvcore schedule of the progress.

    Step it once per iteration. A checkpoint holds its position but not the schedule itself, so
    training can be resumed with another one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ) -> None:
        """
        Args:
            optimizer: whose learning rates to set.
            multiplier: factor as a function of the progress, ``iteration / max_iter``.
            max_iter: iterations of the whole training.
            last_iter: last finished iteration; -1 begins at the start.

        Raises:
            ValueError: `multiplier` is no `ParamScheduler`.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(
                f"multiplier is a {type(multiplier).__name__}; it must be an instance of "
                "fvcore.common.param_scheduler.ParamScheduler."
            )
        self._multiplier = multiplier
        self.max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """The first learning rates and the position."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of every group at the current iteration."""
        factor = self._multiplier(self.last_epoch / self.max_iter)
        return [base_lr * factor for base_lr in self.base_lrs]


class WarmupScheduler(LRScheduler):
    """Multiplies the first learning rate by the warm-up's factor and that of a subclass."""

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_factor: float,
        warmup_iters: int,
        warmup_method: str,
        last_epoch: int,
    ) -> None:
        """
        Args:
            warmup_factor: factor of the first iteration.
            warmup_iters: length of the warm-up.
            warmup_method: "linear" or "constant".
            last_epoch: last finished iteration; -1 begins at the start.
        """
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def decay(self) -> float:
        """Factor at the iteration `last_epoch`, apart from the warm-up."""
        raise NotImplementedError

    def warmup(self) -> float:
        """Factor of the warm-up at the iteration `last_epoch`."""
        return _get_warmup_factor_at_iter(
            self.warmup_method, self.last_epoch, self.warmup_iters, self.warmup_factor
        )

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of every group at the current iteration."""
        warmup, decay = self.warmup(), self.decay()
        return [base_lr * warmup * decay for base_lr in self.base_lrs]


class WarmupMultiStepLR(WarmupScheduler):
    """Multiplies by `gamma` at every milestone.

    Kept for configs that name it; `LRMultiplier` over a `WarmupParamScheduler` does the same.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        """
        Args:
            milestones: iterations, in ascending order.

        Raises:
            ValueError: milestones in another order.
        """
        if list(milestones) != sorted(milestones):
            raise ValueError(f"Milestones must ascend, but they are {list(milestones)}.")
        self.milestones = milestones
        self.gamma = gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def decay(self) -> float:
        return self.gamma ** bisect_right(self.milestones, self.last_epoch)


class WarmupCosineLR(WarmupScheduler):
    """Follows half a cosine from the first learning rate down to zero.

    Kept for configs that name it; `LRMultiplier` over a `WarmupParamScheduler` does the same.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        """
        Args:
            max_iters: iterations until the learning rate is zero.
        """
        self.max_iters = max_iters
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def decay(self) -> float:
        # SGDR paper (arXiv:1608.03983), eq. (5) with one period and a minimum of zero.
        return 0.5 * (1.0 + math.cos(math.pi * self.last_epoch / self.max_iters))


def _get_warmup_factor_at_iter(
    method: str, iter: int, warmup_iters: int, warmup_factor: float
) -> float:
    """Factor of the learning rate at iteration `iter`, 1 from `warmup_iters` on.

    Args:
        method: ``"constant"`` (always `warmup_factor`) or ``"linear"`` (from there up to 1).

    Raises:
        ValueError: another method.
    """
    if iter >= warmup_iters:
        return 1.0
    if method == "constant":
        return warmup_factor
    if method == "linear":
        progress = iter / warmup_iters
        return warmup_factor + (1.0 - warmup_factor) * progress
    raise ValueError(f"The warm-up method is {method!r}; use 'linear' or 'constant'.")
