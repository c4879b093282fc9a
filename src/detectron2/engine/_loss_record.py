"""Losses of one iteration from all processes into the event storage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detectron2.utils import comm
from detectron2.utils.events import get_event_storage


def record_losses(
    loss_dict: Mapping[str, Tensor], data_time: float, iteration: int, prefix: str, group: Any
) -> None:
    """Put the means over all processes into the storage of the main process.

    Raises:
        FloatingPointError: their sum is not finite, on every process.
    """
    # Every process gets all of them: if one loss is not finite they all stop, and none waits
    # in a collective call for one that is gone.
    everyone = comm.all_gather((_as_floats(loss_dict), data_time), group)
    means = {
        name: sum(losses[name] for losses, _ in everyone) / len(everyone) for name in loss_dict
    }
    total = sum(means.values())
    if not math.isfinite(total):
        raise FloatingPointError(
            f"The loss is not finite at iteration {iteration}: {prefix}total_loss = {total} from "
            f"{means}. Typical reasons are a learning rate that is too high, a warm-up that is "
            "too short, and boxes without area in the annotations."
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


def _as_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    if not values or not all(isinstance(value, Tensor) for value in values.values()):
        return {name: float(value) for name, value in values.items()}
    # One copy from the GPU, and one wait for it, instead of one per loss.
    stacked = torch.stack([value.detach().reshape(()) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))
