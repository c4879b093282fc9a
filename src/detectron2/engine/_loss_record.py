"""Losses of one iteration from all processes into the event storage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from detectron2.utils import comm
from detectron2.utils._deferred import Check, fetch
from detectron2.utils.events import get_event_storage

GRADIENT_NORM = "gradient_norm"


def record_losses(
    loss_dict: Mapping[str, Tensor],
    data_time: float,
    iteration: int,
    prefix: str,
    group: Any,
    gradient_norm: Tensor | None = None,
    checks: Sequence[Check] = (),
) -> None:
    """Put the means over all processes into the storage of the main process.

    Args:
        gradient_norm: of all parameters together; comes from the GPU in one copy with the losses.
        checks: what the model wants to be asked; their answers come in the same copy.

    Raises:
        FloatingPointError: their sum, or the norm, is not finite, on every process.
        Exception: that of a check.
    """
    values = dict(loss_dict)
    if gradient_norm is not None:
        values[GRADIENT_NORM] = gradient_norm
    floats, counts = _as_floats(values, checks)
    # Every process gets all of them: if one loss is not finite they all stop, and none waits
    # in a collective call for one that is gone.
    everyone = comm.all_gather((floats, data_time, sum(counts)), group)
    _answer(checks, counts, sum(count for *_, count in everyone), iteration)
    means = {name: sum(losses[name] for losses, *_ in everyone) / len(everyone) for name in values}
    norm = means.pop(GRADIENT_NORM, None) if gradient_norm is not None else None
    total = sum(means.values())
    _require_finite(total, norm, means, f"{prefix}total_loss", iteration)
    if not comm.is_main_process():
        return
    storage = get_event_storage()
    storage.put_scalar("rank_data_time", data_time, cur_iter=iteration)
    # The slowest process decides when the iteration begins.
    storage.put_scalar("data_time", max(seconds for _, seconds, _ in everyone), cur_iter=iteration)
    storage.put_scalar(f"{prefix}total_loss", total, cur_iter=iteration)
    if len(means) > 1:
        storage.put_scalars(cur_iter=iteration, **means)
    if norm is not None:
        storage.put_scalar(GRADIENT_NORM, norm, cur_iter=iteration)


def _require_finite(
    total: float, norm: float | None, means: Mapping[str, float], name: str, iteration: int
) -> None:
    if not math.isfinite(total):
        raise FloatingPointError(
            f"The loss is not finite at iteration {iteration}: {name} = {total} from {means}. "
            "Typical reasons are a learning rate that is too high, a warm-up that is too short, "
            "and boxes without area in the annotations."
        )
    if norm is not None and not math.isfinite(norm):
        raise FloatingPointError(
            f"The norm of the gradients is {norm} at iteration {iteration}, "
            f"with the losses {means}."
        )


def _as_floats(
    values: Mapping[str, Tensor], checks: Sequence[Check]
) -> tuple[dict[str, float], list[float]]:
    """Values by name, and the counts of the checks."""
    counts = [check.count for check in checks]
    if not values or not all(isinstance(value, Tensor) for value in values.values()):
        return {name: float(value) for name, value in values.items()}, [float(x) for x in counts]
    # One copy from the GPU, and one wait for it, instead of one per loss.
    read = [numbers[0] for numbers in fetch([*values.values(), *counts])]
    return dict(zip(values, read)), read[len(values) :]


def _answer(
    checks: Sequence[Check], counts: Sequence[float], of_all: float, iteration: int
) -> None:
    for check, count in zip(checks, counts, strict=True):
        check.answer(count)
    if of_all:
        raise FloatingPointError(
            f"Another process predicts numbers that are not finite at iteration {iteration}."
        )
