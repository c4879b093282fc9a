"""Annotations in any of their forms, as arrays that can be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Keypoints,
    PolygonMasks,
    ROIMasks,
    RotatedBoxes,
)
from detectron2.utils.drawing.generic_mask import GenericMask

__all__ = [
    "boxes_to_array",
    "create_text_labels",
    "drawn_box",
    "keypoints_to_array",
    "masks_to_generic",
    "read_id_map",
    "roi_masks_to_generic",
]


def boxes_to_array(boxes: Any) -> np.ndarray:
    """(N, 4) or (N, 5) array of Boxes, RotatedBoxes, a tensor or nested lists."""
    if isinstance(boxes, (Boxes, RotatedBoxes)):
        boxes = boxes.tensor
    return _to_array(boxes)


def keypoints_to_array(keypoints: Any) -> np.ndarray:
    """(N, K, 3) array of Keypoints, a tensor or nested lists."""
    if isinstance(keypoints, Keypoints):
        keypoints = keypoints.tensor
    return _to_array(keypoints)


def masks_to_generic(masks: Any, height: int, width: int) -> list[GenericMask]:
    """One GenericMask per instance of PolygonMasks, BitMasks, a tensor or a list of any forms."""
    if isinstance(masks, PolygonMasks):
        masks = masks.polygons
    elif isinstance(masks, BitMasks):
        masks = masks.tensor
    if hasattr(masks, "detach"):
        masks = _to_array(masks)
    return [
        mask
        if isinstance(mask, GenericMask)
        else GenericMask(_to_array(mask) if hasattr(mask, "detach") else mask, height, width)
        for mask in masks
    ]


def roi_masks_to_generic(masks: ROIMasks, boxes: Any, height: int, width: int) -> list[GenericMask]:
    """Outlines of masks that lie on their boxes, without a bitmap of the picture for any.

    Args:
        boxes: (N, 4), XYXY in pixels of the picture of (height, width).
    """
    limits = np.array([width, height, width, height])
    corners = boxes_to_array(boxes)
    frames = np.concatenate([np.floor(corners[:, :2]), np.ceil(corners[:, 2:])], axis=1)
    frames = frames.clip(0, limits).astype(int)
    outlined = []
    for index, (left, top, right, bottom) in enumerate(frames):
        on_frame = torch.as_tensor(corners[index : index + 1] - np.tile((left, top), 2))
        crop = masks[index].to("cpu").to_bitmasks(on_frame.float(), bottom - top, right - left)
        polygons = GenericMask(crop.tensor[0].numpy(), bottom - top, right - left).polygons
        moved = [(each.reshape(-1, 2) + (left, top)).reshape(-1) for each in polygons]
        outlined.append(GenericMask(moved, height, width))
    return outlined


def _to_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def drawn_box(annotation: dict[str, Any]) -> Sequence[float]:
    """Box of a dataset record: XYXY, or as it is if it has five numbers (rotated)."""
    box = annotation["bbox"]
    if len(box) == 5:
        return box
    return BoxMode.convert(list(box), annotation["bbox_mode"], BoxMode.XYXY_ABS)


def create_text_labels(
    classes: Sequence[int] | None,
    scores: Any,
    class_names: Sequence[str] | None,
    is_crowd: Sequence[Any] | None = None,
) -> list[str] | None:
    """What to write at each instance: its class, its score in percent, and whether it is a crowd.

    Args:
        classes: N class indices. An index without a name is written as the number.
        scores: N numbers in [0, 1].
        class_names: name of each class.
        is_crowd: N flags.

    Returns:
        N texts; None if there is neither class nor score.
    """
    labels: list[str] | None = None
    if classes is not None:
        names = class_names or ()
        labels = [names[i] if 0 <= i < len(names) else str(i) for i in map(int, classes)]
    if scores is not None:
        percents = [f"{float(score) * 100:.0f}%" for score in scores]
        labels = percents if labels is None else [f"{a} {b}" for a, b in zip(labels, percents)]
    if labels is not None and is_crowd is not None:
        labels = [f"{label}|crowd" if flag else label for label, flag in zip(labels, is_crowd)]
    return labels


def read_id_map(path: str) -> np.ndarray:
    """(H, W) int64 ids of a panoptic PNG, whose colours are digits to the base 256."""
    from PIL import Image

    from detectron2.utils.file_io import PathManager

    with PathManager.open(path, "rb") as stream:
        digits = np.asarray(Image.open(stream).convert("RGB")).astype(np.int64)
    return digits @ np.array([1, 256, 256 * 256])
