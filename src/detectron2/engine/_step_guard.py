"""Skipping steps whose numbers are not finite, and saying why when there are too many."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detectron2.engine._random_state import (
    random_state,
    set_random_state,
    unchanged_random_state,
)
from detectron2.engine._trainer_base import NotFiniteError
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

__all__ = ["StepGuard", "gradient_norm"]

logger = logging.getLogger(__name__)

_SAVED_BATCHES = 3
"""Each file holds the weights too."""


def gradient_norm(model: nn.Module) -> Tensor | None:
    """Norm of all gradients of a model together; None if there are none."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        return None
    norms = torch._foreach_norm(gradients)
    total = torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms]))
    return total.full_tensor() if hasattr(total, "full_tensor") else total  # of a sharded model


class StepGuard:
    """Lets a training skip a bad step, and ends it with a diagnosis if there are more.

    The bad batch is saved with the weights and the random numbers it met, for
    ``detectron2 debug-batch``.
    """

    def __init__(self, output_dir: str, window: int = 1000, config: str = "") -> None:
        """
        Args:
            output_dir: bad batches are saved below it.
            window: iterations in which one bad step is tolerated.
            config: text of the config, saved with the batch.
        """
        self._output_dir = output_dir
        self._window = window
        self._config = config
        self._skipped: list[int] = []
        self._saved: list[str] = []
        self._random_state: dict[str, Any] = {}
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def before_forward(self, model: nn.Module) -> None:
        """Remember what a bad forward pass would spoil, and what is needed to repeat it."""
        self._random_state = random_state()
        # A NaN would stay in the moving averages of batch normalization for ever.
        buffers = [
            buffer
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.training
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
        if len(buffers) != len(self._statistics):
            self._statistics = [(buffer, buffer.clone()) for buffer in buffers]
        elif buffers:
            torch._foreach_copy_([copy for _, copy in self._statistics], buffers)

    def skip(self, trainer: Any, batches: Sequence[Any], error: FloatingPointError) -> None:
        """Leave out the step of `trainer`; all processes call this at the same iteration.

        Raises:
            NotFiniteError: the budget is spent.
        """
        iteration = trainer.iter
        for buffer, copy in self._statistics:
            buffer.copy_(copy)
        self._skipped.append(iteration)
        path = self._save(trainer, batches) if len(self._saved) < _SAVED_BATCHES else ""
        if comm.is_main_process():
            get_event_storage().put_scalar(
                "skipped_steps", len(self._skipped), smoothing_hint=False, cur_iter=iteration
            )
        recent = [at for at in self._skipped if at > iteration - self._window]
        if len(recent) == 1:
            logger.warning(
                "%s The step is skipped; another one within %d iterations ends the training.%s",
                error,
                self._window,
                f" The batch is in {path}." if path else "",
            )
            return
        from detectron2.engine._diagnosis import diagnosis

        with unchanged_random_state():
            set_random_state(self._random_state)  # the same samples of proposals again
            text = diagnosis(trainer, batches, get_event_storage(), self._saved)
        raise NotFiniteError(
            f"{error} Iterations {', '.join(map(str, recent))} were bad, and one in "
            f"{self._window} is tolerated.\n{text}"
        )

    def _save(self, trainer: Any, batches: Sequence[Any]) -> str:
        from detectron2.engine.bad_batch import save_batch

        name = f"iteration_{trainer.iter:07d}_rank{comm.get_rank()}.pth"
        path = os.path.join(self._output_dir, "bad_batches", name)
        try:
            save_batch(path, trainer, batches, self._random_state, self._config)
        except (OSError, TypeError) as error:
            logger.warning("The bad batch could not be saved to %s: %s", path, error)
            return ""
        self._saved.append(path)
        return path
