"""Greedy non-maximum suppression of rotated boxes."""

from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.box_iou_rotated.reference import box_iou_rotated_reference
from detectron2.ops.nms.reference import greedy_keep, score_order, threshold_below

__all__ = ["batched_nms_rotated_reference", "nms_rotated_reference"]


def overlaps_rotated(boxes: Tensor, iou_threshold: float) -> Tensor:
    """(N, N) True where the IoU of two of the (N, 5) boxes is above the threshold."""
    boxes = boxes.to(compute_dtype(boxes.dtype))
    iou = box_iou_rotated_reference(boxes, boxes)
    return iou > threshold_below(iou_threshold, iou.dtype)


def nms_rotated_reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """(K,) kept indices; see :func:`detectron2.ops.nms_rotated`."""
    order = score_order(scores)
    return order[greedy_keep(overlaps_rotated(boxes[order], iou_threshold))]


def batched_nms_rotated_reference(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    """(K,) kept indices; see :func:`detectron2.ops.batched_nms_rotated`."""
    order = score_order(scores)
    classes = class_ids[order]
    same_class = classes[:, None] == classes[None, :]
    return order[greedy_keep(overlaps_rotated(boxes[order], iou_threshold) & same_class)]
