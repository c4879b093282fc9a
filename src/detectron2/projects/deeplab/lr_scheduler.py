"""The learning rate falls as a power of the remaining iterations."""

from __future__ import annotations

from torch.optim import Optimizer

from detectron2.solver.lr_scheduler import WarmupScheduler

__all__ = ["WarmupPolyLR"]


class WarmupPolyLR(WarmupScheduler):
    """Multiplies the first learning rate by ``(1 - iteration / max_iters) ** power``.

    During the warm-up a second factor multiplies that. Step it once per iteration.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
        power: float = 0.9,
        constant_ending: float = 0.0,
    ) -> None:
        """
        Args:
            max_iters: iterations of the whole training.
            warmup_factor: factor of the first iteration.
            warmup_iters: length of the warm-up.
            warmup_method: "linear" or "constant".
            last_epoch: last finished iteration; -1 begins at the start.
            power: exponent; 1.0 is a straight line.
            constant_ending: after the warm-up the factor does not fall below this; 0.0 lets it
                reach zero.
        """
        self.max_iters = max_iters
        self.power = power
        self.constant_ending = constant_ending
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def decay(self) -> float:
        # One step more than max_iters is asked for at the very end; it must not turn negative,
        # whose power would be complex.
        remaining = max(1.0 - self.last_epoch / self.max_iters, 0.0)
        is_warm = self.last_epoch >= self.warmup_iters
        return max(remaining**self.power, self.constant_ending if is_warm else 0.0)
