"""Detections of overlapping slices become those of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detectron2.engine.slicing.windows import Window
from detectron2.structures import Boxes, Instances, ROIMasks, RotatedBoxes

__all__ = ["merge_slices"]

# A box that ends this close to the side of a slice was probably cut there, in pixels.
_AT_THE_SIDE = 2.0


def merge_slices(
    parts: Sequence[tuple[Window, Instances]], image_size: tuple[int, int], threshold: float = 0.5
) -> Instances:
    """The detections of all slices in the frame of the image, each object once.

    An object in the overlap of two slices is found in both. Of two boxes of one class from
    different slices, one is dropped where their intersection covers more than `threshold` of the
    smaller one: the half of an object in one slice lies inside of the whole object in the other,
    although their IoU is small. Kept is the one that no side of a slice cuts, and of two such
    the one of higher score.

    Args:
        parts: detections in the frame of their slice, with pred_boxes, scores and pred_classes;
            masks on their boxes as ROIMasks; keypoints.
        image_size: (H, W) of the image, in pixels.
        threshold: share of the smaller box, from 0 to 1.

    Raises:
        ValueError: no part, or `threshold` is outside of its range.
    """
    if not parts:
        raise ValueError("There are no slices to merge.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"The merge threshold is {threshold}; use a fraction from 0 to 1.")
    moved = [_in_image(window, part, image_size) for window, part in parts]
    merged = Instances.cat(moved)
    sources = np.repeat(np.arange(len(parts)), [len(part) for part in moved])
    cut = np.concatenate([_is_cut(window, part) for window, part in parts])
    boxes = _upright(merged.pred_boxes).cpu().double().numpy()
    kept = _largest_whole_first(
        boxes,
        merged.scores.cpu().numpy(),
        merged.pred_classes.cpu().numpy(),
        sources,
        cut,
        threshold,
    )
    return merged[torch.from_numpy(kept).to(merged.scores.device)]


def _in_image(window: Window, part: Instances, image_size: tuple[int, int]) -> Instances:
    """`part` with everything moved to where the window lies."""
    fields = dict(part.get_fields())
    offset = torch.tensor([window.left, window.top], device=part.scores.device)
    boxes = part.pred_boxes.tensor.clone()
    if isinstance(part.pred_boxes, RotatedBoxes):
        boxes[:, :2] += offset
        fields["pred_boxes"] = RotatedBoxes(boxes)
    else:
        boxes += offset.repeat(2)
        fields["pred_boxes"] = Boxes(boxes)
    if "pred_keypoints" in fields:
        keypoints = fields["pred_keypoints"].clone()
        keypoints[..., :2] += offset
        fields["pred_keypoints"] = keypoints
    if not isinstance(fields.get("pred_masks", ROIMasks(torch.empty(0, 1, 1))), ROIMasks):
        raise ValueError("Masks of slices can be merged as ROIMasks only, which lie on the boxes.")
    return Instances(image_size, **fields)


def _upright(boxes: Boxes | RotatedBoxes) -> Tensor:
    """(N, 4) boxes around them, XYXY."""
    if not isinstance(boxes, RotatedBoxes):
        return boxes.tensor
    x, y, width, height, angle = boxes.tensor.unbind(dim=1)
    cos, sin = torch.cos(torch.deg2rad(angle)).abs(), torch.sin(torch.deg2rad(angle)).abs()
    half_x, half_y = (cos * width + sin * height) / 2, (sin * width + cos * height) / 2
    return torch.stack([x - half_x, y - half_y, x + half_x, y + half_y], dim=1)


def _is_cut(window: Window, part: Instances) -> np.ndarray:
    """Which boxes, in the frame of the window, end at a side that lies inside of the image."""
    left, top, right, bottom = _upright(part.pred_boxes).cpu().numpy().T
    height, width = window.bottom - window.top, window.right - window.left
    at = (
        left <= _AT_THE_SIDE,
        top <= _AT_THE_SIDE,
        right >= width - _AT_THE_SIDE,
        bottom >= height - _AT_THE_SIDE,
    )
    return np.any([inner & here for inner, here in zip(window.inner_sides(), at)], axis=0)


def _largest_whole_first(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    sources: np.ndarray,
    cut: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Indices of the boxes that stay, by falling score.

    Whole boxes come before cut ones; among the latter the larger piece of an object first.
    """
    areas = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    order = np.lexsort((-scores, np.where(cut, -areas, 0), cut))
    alive = np.ones(len(boxes), dtype=bool)
    for position, index in enumerate(order):
        if not alive[index]:
            continue
        rest = order[position + 1 :]
        rest = rest[
            alive[rest] & (classes[rest] == classes[index]) & (sources[rest] != sources[index])
        ]
        sides = np.minimum(boxes[index, 2:], boxes[rest, 2:]) - np.maximum(
            boxes[index, :2], boxes[rest, :2]
        )
        shared = np.maximum(sides, 0).prod(axis=1)
        alive[rest[shared > threshold * np.minimum(areas[index], areas[rest])]] = False
    kept = np.flatnonzero(alive)
    return kept[np.argsort(-scores[kept], kind="stable")]
