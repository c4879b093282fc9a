"""Boxes sorted by class and then by score, so that each class is one contiguous run."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["class_runs"]


def class_runs(
    order: Tensor, class_ids: Tensor | None
) -> tuple[Tensor, NDArray[Any], NDArray[Any]]:
    """Sort boxes that are in `order` of score by class, if there are classes.

    Args:
        order: (N,) int64 indices of the boxes by descending score, on CPU.
        class_ids: (N,) integers.

    Returns:
        (N,) indices of the boxes by class and score, (N,) their positions in `order`, and
        (R + 1,) beginnings of the R runs and the end of the last one.
    """
    count = len(order)
    if class_ids is None or count == 0:
        return order, np.arange(count), np.array([0, count])
    classes, place = torch.sort(class_ids[order], stable=True)
    changes = np.flatnonzero(np.diff(classes.numpy())) + 1
    return order[place], place.numpy(), np.concatenate([[0], changes, [count]])
