"""Checks of arguments that the ops share. Each raises a sentence with the value in it."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

__all__ = [
    "as_pair",
    "check_boxes",
    "check_features",
    "check_labels",
    "check_rois",
    "check_same_device",
    "check_scores",
]

BOX_LAYOUT = {4: "(x0, y0, x1, y1)", 5: "(center x, center y, width, height, angle)"}


def check_boxes(boxes: Tensor, columns: int, name: str = "boxes") -> None:
    """`boxes` must be a (N, `columns`) tensor of floating point numbers."""
    if boxes.dim() != 2 or boxes.shape[1] != columns:
        raise ValueError(
            f"{name} has shape {tuple(boxes.shape)}; expected (N, {columns}) rows of "
            f"{BOX_LAYOUT[columns]}."
        )
    check_floating(boxes, name)


def check_floating(tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{name} has dtype {tensor.dtype}; convert it to a floating point type.")


def check_scores(scores: Tensor, boxes: Tensor) -> None:
    """One score per box."""
    if scores.dim() != 1 or scores.shape[0] != boxes.shape[0]:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)} for {boxes.shape[0]} boxes; expected one "
            "score per box."
        )
    check_same_device(boxes, scores, "boxes", "scores")


def check_labels(class_ids: Tensor, boxes: Tensor) -> None:
    """One integer class per box."""
    if class_ids.dim() != 1 or class_ids.shape[0] != boxes.shape[0]:
        raise ValueError(
            f"class_ids has shape {tuple(class_ids.shape)} for {boxes.shape[0]} boxes; expected "
            "one class per box."
        )
    check_same_device(boxes, class_ids, "boxes", "class_ids")


def check_features(features: Tensor, name: str = "input") -> None:
    """`features` must be a (N, C, H, W) tensor of floating point numbers."""
    if features.dim() != 4:
        raise ValueError(f"{name} has shape {tuple(features.shape)}; expected (N, C, H, W).")
    check_floating(features, name)


def check_rois(rois: Tensor, features: Tensor, columns: int) -> None:
    """`rois` must be (K, `columns`) rows: an image index, then a box."""
    if rois.dim() != 2 or rois.shape[1] != columns:
        raise ValueError(
            f"rois has shape {tuple(rois.shape)}; expected (K, {columns}) rows of the image index "
            f"followed by {BOX_LAYOUT[columns - 1]}."
        )
    check_floating(rois, "rois")
    check_same_device(features, rois, "input", "rois")


def check_same_device(first: Tensor, second: Tensor, first_name: str, second_name: str) -> None:
    if first.device != second.device:
        raise ValueError(
            f"{first_name} is on {first.device} and {second_name} on {second.device}; move them "
            "to one device."
        )


def as_pair(value: int | Sequence[int], name: str, minimum: int = 1) -> tuple[int, int]:
    """`value` as (vertical, horizontal); one number stands for both."""
    sides = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    # Sizes that were computed with NumPy are its integers.
    pair = tuple(int(side) if isinstance(side, np.integer) else side for side in sides)
    if len(pair) != 2 or not all(isinstance(side, int) and side >= minimum for side in pair):
        raise ValueError(
            f"{name} is {value!r}; expected an integer of at least {minimum}, or a pair of them."
        )
    return pair[0], pair[1]
