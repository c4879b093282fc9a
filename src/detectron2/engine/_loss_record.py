"""Losses of one iteration from all processes into the event storage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

GRADIENT_NORM = "gradient_norm"


def record_losses(
    loss_dict: Mapping[str, Tensor],
    data_time: float,
    iteration: int,
    prefix: str,
    group: Any,
    gradient_norm: Tensor | None = None,
) -> None:
    """Put the means over all processes into the storage of the main process.

    Args:
        gradient_norm: of all parameters together; comes from the GPU in one copy with the losses.

    Raises:
        FloatingPointError: their sum, or the norm, is not finite, on every process.
    """
    values = dict(loss_dict)
    if gradient_norm is not None:
        values[GRADIENT_NORM] = gradient_norm
    # Every process gets all of them: if one loss is not finite they all stop, and none waits
    # in a collective call for one that is gone.
    everyone = comm.all_gather((_as_floats(values), data_time), group)
    means = {name: sum(losses[name] for losses, _ in everyone) / len(everyone) for name in values}
    norm = means.pop(GRADIENT_NORM, None) if gradient_norm is not None else None
    total = sum(means.values())
    if not math.isfinite(total):
        raise FloatingPointError(
            f"The loss is not finite at iteration {iteration}: {prefix}total_loss = {total} from "
            f"{means}. Typical reasons are a learning rate that is too high, a warm-up that is "
            "too short, and boxes without area in the annotations."
        )
    if norm is not None and not math.isfinite(norm):
        raise FloatingPointError(
            f"The norm of the gradients is {norm} at iteration {iteration}, "
            f"with the losses {means}."
        )
    if not comm.is_main_process():
        return
    storage = get_event_storage()
    storage.put_scalar("rank_data_time", data_time, cur_iter=iteration)
    # The slowest process decides when the iteration begins.
    storage.put_scalar("data_time", max(seconds for _, seconds in everyone), cur_iter=iteration)
    storage.put_scalar(f"{prefix}total_loss", total, cur_iter=iteration)
    if len(means) > 1:
        storage.put_scalars(cur_iter=iteration, **means)
    if norm is not None:
        storage.put_scalar(GRADIENT_NORM, norm, cur_iter=iteration)


def _as_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    if not values or not all(isinstance(value, Tensor) for value in values.values()):
        return {name: float(value) for name, value in values.items()}
    # One copy from the GPU, and one wait for it, instead of one per loss.
    stacked = torch.stack([value.detach().reshape(()) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))
