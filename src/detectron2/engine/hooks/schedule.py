"""The learning rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from fvcore.common.param_scheduler import ParamScheduler
from torch.optim.lr_scheduler import LRScheduler as TorchLRScheduler

from detectron2.engine.train_loop import HookBase
from detectron2.solver import LRMultiplier

__all__ = ["LRScheduler"]


class LRScheduler(HookBase):
    """Steps a schedule after every iteration, and puts the scalar ``lr``."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: TorchLRScheduler | ParamScheduler | None = None,
    ) -> None:
        """
        Args:
            optimizer: None means the trainer's.
            scheduler: a scheduler of PyTorch, or an fvcore schedule that multiplies the first
                learning rate. None means the trainer's.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    def before_train(self) -> None:
        if self._optimizer is None:
            self._optimizer = self.trainer.optimizer  # type: ignore[attr-defined]
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer,
                self.scheduler,
                self.trainer.max_iter,
                last_iter=self.trainer.iter - 1,
            )
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """Index of the parameter group whose learning rate stands for all in the log.

        The largest group; if every group has one parameter, a group with the most common
        learning rate.
        """
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        most_common, _ = Counter(rates).most_common(1)[0]
        return rates.index(most_common)

    def after_step(self) -> None:
        assert self._optimizer is not None
        rate = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        if self._is_over():
            # Schedules of fvcore are defined up to the last iteration, not behind it.
            self.scheduler.last_epoch += 1
        else:
            self.scheduler.step()

    def _is_over(self) -> bool:
        scheduler = self.scheduler
        return (
            self.trainer.iter + 1 == self.trainer.max_iter
            and isinstance(scheduler, LRMultiplier)
            and scheduler.last_epoch + 1 >= scheduler.max_iter
        )

    @property
    def scheduler(self) -> Any:
        """The schedule in use."""
        return self._scheduler or self.trainer.scheduler  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Position of the schedule; an fvcore schedule has none before training begins."""
        if isinstance(self.scheduler, TorchLRScheduler):
            return self.scheduler.state_dict()
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if isinstance(self.scheduler, TorchLRScheduler):
            self.scheduler.load_state_dict(dict(state_dict))
