"""Greedy non-maximum suppression of rotated boxes."""

from torch import Tensor

from detectron2.ops.box_iou_rotated.reference import box_iou_rotated_reference
from detectron2.ops.nms.reference import greedy_keep, score_order

__all__ = ["batched_nms_rotated_reference", "nms_rotated_reference"]


def nms_rotated_reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """(K,) kept indices; see :func:`detectron2.ops.nms_rotated`."""
    order = score_order(scores)
    boxes = boxes[order]
    return order[greedy_keep(box_iou_rotated_reference(boxes, boxes) > iou_threshold)]


def batched_nms_rotated_reference(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    """(K,) kept indices; see :func:`detectron2.ops.batched_nms_rotated`."""
    order = score_order(scores)
    boxes, classes = boxes[order], class_ids[order]
    overlapping = box_iou_rotated_reference(boxes, boxes) > iou_threshold
    return order[greedy_keep(overlapping & (classes[:, None] == classes[None, :]))]
