"""Gradients of a batch in parts: accumulated ones, and smaller ones where memory is short."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.utils import comm

__all__ = ["BatchParts"]

logger = logging.getLogger(__name__)


class BatchParts:
    """Computes the gradients of some batches one part after the other.

    Attributes:
        splits: into how many parts each batch is divided. It is doubled when memory runs out.
    """

    def __init__(self) -> None:
        self.splits = 1

    def gradients(self, trainer: Any, batches: Sequence[Any]) -> dict[str, Tensor]:
        """Losses, averaged over all images; the trainer's parameters then have their gradients.

        Args:
            trainer: with ``compute_losses``, ``backward``, ``optimizer`` and ``model``.
            batches: each counts equally.

        Raises:
            torch.OutOfMemoryError: and the batch cannot be divided any further.
        """
        while True:
            try:
                return self._accumulate(trainer, list(self._divided(batches)))
            except torch.OutOfMemoryError as error:
                self._divide_further(batches, error)
            # Outside of the handler: the traceback kept the activations alive.
            trainer.optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _accumulate(self, trainer: Any, parts: list[tuple[Any, float]]) -> dict[str, Tensor]:
        totals: dict[str, Tensor] = {}
        for number, (data, weight) in enumerate(parts):
            if trainer.zero_grad_before_forward and number == 0:
                trainer.optimizer.zero_grad()
            with _without_exchange(trainer.model, number + 1 < len(parts)):
                losses = trainer.compute_losses(data)
                if not trainer.zero_grad_before_forward and number == 0:
                    trainer.optimizer.zero_grad()
                if len(parts) == 1:
                    trainer.backward(sum(losses.values()))
                    return losses
                trainer.backward(sum(losses.values()) * weight)
            for name, value in losses.items():
                weighted = value.detach() * weight
                totals[name] = totals[name] + weighted if name in totals else weighted
        return totals

    def _divided(self, batches: Sequence[Any]) -> Iterator[tuple[Any, float]]:
        """(part, share of all images) of each part."""
        for batch in batches:
            if self.splits == 1 or not isinstance(batch, list):
                yield batch, 1 / len(batches)
                continue
            size = -(-len(batch) // self.splits)
            for start in range(0, len(batch), size):
                part = batch[start : start + size]
                yield part, len(part) / len(batch) / len(batches)

    def _divide_further(self, batches: Sequence[Any], error: torch.OutOfMemoryError) -> None:
        largest = max(len(batch) if isinstance(batch, list) else 1 for batch in batches)
        if self.splits >= largest or comm.get_world_size() > 1:
            raise type(error)(
                f"{error} Use a smaller SOLVER.IMS_PER_BATCH with TRAINING.ACCUMULATION_STEPS, "
                "smaller images (INPUT.MIN_SIZE_TRAIN), SOLVER.AMP.ENABLED or "
                "TRAINING.ACTIVATION_CHECKPOINTING; PYTORCH_CUDA_ALLOC_CONF=expandable_segments:"
                "True helps where much memory is reserved but unallocated."
            ) from error
        self.splits *= 2
        logger.warning(
            "Out of memory: from here on each batch of %d images is computed in %d parts, whose "
            "gradients are added; learning rate and schedule stay as they are.",
            largest,
            min(self.splits, largest),
        )


@contextlib.contextmanager
def _without_exchange(model: Any, wanted: bool) -> Iterator[None]:
    """Processes exchange gradients once per step, not once per part."""
    if wanted and hasattr(model, "no_sync"):  # DistributedDataParallel
        with model.no_sync():
            yield
    elif wanted and hasattr(model, "set_requires_gradient_sync"):  # sharded
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:  # also when memory runs out
            model.set_requires_gradient_sync(True)
    else:
        yield
