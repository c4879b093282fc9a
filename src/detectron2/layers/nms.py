"""Non-maximum suppression: keep the best box of every group of overlapping ones."""

from torch import Tensor

from detectron2 import ops
from detectron2.layers.wrappers import disable_torch_compiler

__all__ = [
    "batched_nms",
    "batched_nms_rotated",
    "disable_torch_compiler",
    "nms",
    "nms_rotated",
]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression of upright boxes.

    Boxes are visited from the highest score to the lowest; one is kept unless its IoU with a
    kept one exceeds the threshold.

    Args:
        boxes: (N, 4) of (x0, y0, x1, y1).
        scores: (N,).
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices of the kept boxes, by descending score.
    """
    return ops.nms(boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each class: boxes of different classes do not suppress each other.

    Args:
        boxes: (N, 4) of (x0, y0, x1, y1); overlaps are computed in float32 at least.
        scores: (N,).
        idxs: (N,) integers, the classes.
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices of the kept boxes, by descending score.
    """
    return ops.batched_nms(_at_least_float32(boxes), scores, idxs, iou_threshold)


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression of rotated boxes, with the rule of `nms`.

    A box and the same box turned by 180 degrees are one box; angles of a square that differ by
    90 degrees are one, too.

    Args:
        boxes: (N, 5) of (x centre, y centre, width, height, angle), degrees counter-clockwise.
        scores: (N,).
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices of the kept boxes, by descending score.
    """
    return ops.nms_rotated(boxes, scores, iou_threshold)


def batched_nms_rotated(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float
) -> Tensor:
    """`nms_rotated` within each class.

    Args:
        boxes: (N, 5) of (x centre, y centre, width, height, angle), degrees counter-clockwise;
            overlaps are computed in float32 at least.
        scores: (N,).
        idxs: (N,) integers, the classes.
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices of the kept boxes, by descending score.
    """
    return ops.batched_nms_rotated(_at_least_float32(boxes), scores, idxs, iou_threshold)


def _at_least_float32(boxes: Tensor) -> Tensor:
    # Half precision rounds coordinates above 2048 to multiples of 2 pixels.
    return boxes.float() if boxes.element_size() < 4 else boxes
