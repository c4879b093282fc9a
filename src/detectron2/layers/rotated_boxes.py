"""Overlap of rotated boxes, on plain tensors."""

from torch import Tensor

from detectron2 import ops

__all__ = ["pairwise_iou_rotated"]


def pairwise_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(N, M) intersection over union of each of N rotated boxes with each of M.

    Args:
        boxes1: (N, 5) of (x centre, y centre, width, height, angle), degrees counter-clockwise.
        boxes2: (M, 5) of the same.
    """
    return ops.box_iou_rotated(boxes1, boxes2)
