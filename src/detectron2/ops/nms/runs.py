"""Boxes sorted by class and then by score, so that each class is one contiguous run."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.compiled import as_array, compiled

__all__ = ["class_runs"]

Array = NDArray[Any]


def class_runs(order: Array, class_ids: Tensor | None) -> tuple[Array, Array]:
    """Sort boxes that are in `order` of score by class, if there are classes.

    Args:
        order: (N,) int64 indices of the boxes by descending score.
        class_ids: (N,) integers, on CPU.

    Returns:
        (N,) positions in `order` of the boxes by class and score; and (R + 1,) beginnings of
        the R runs, some perhaps empty, and the end of the last one.
    """
    count = len(order)
    if class_ids is None or count == 0:
        return np.arange(count), np.array([0, count])
    if not class_ids.is_floating_point():
        classes = as_array(class_ids, torch.int64)
        low, high = lowest_and_highest(classes)
        if high - low < 4 * count + 1000:
            return sort_by_class(order, classes, low, high - low + 1)
    classes = as_array(torch.unique(class_ids, return_inverse=True)[1])
    return sort_by_class(order, classes, 0, count)


@compiled()
def lowest_and_highest(values):  # type: ignore[no-untyped-def]
    low, high = values[0], values[0]
    for value in values:
        low, high = min(low, value), max(high, value)
    return low, high


@compiled()
def sort_by_class(order, classes, lowest, class_count):  # type: ignore[no-untyped-def]
    """The two results of :func:`class_runs`, by counting: no comparison of two classes."""
    starts = np.zeros(class_count + 1, np.int64)
    for value in classes:
        starts[value - lowest + 1] += 1
    for index in range(class_count):
        starts[index + 1] += starts[index]
    free = starts[:-1].copy()
    place = np.empty(order.shape[0], np.int64)
    for position in range(order.shape[0]):
        run = classes[order[position]] - lowest
        place[free[run]] = position
        free[run] += 1
    return place, starts
