"""Non-maximum suppression of rotated boxes, over all boxes or within each class."""

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import check_boxes, check_labels, check_scores
from detectron2.ops.nms_rotated.reference import (
    batched_nms_rotated_reference,
    nms_rotated_reference,
)

__all__ = ["batched_nms_rotated", "nms_rotated"]


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """:func:`detectron2.ops.nms` with the IoU of rotated boxes.

    Args:
        boxes: (N, 5) rows of (center x, center y, width, height, angle): any unit of length,
            and degrees counter-clockwise.
        scores: (N,).
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices of the kept boxes, by descending score.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: the boxes are not floating point numbers.
    """
    check_boxes(boxes, 5)
    check_scores(scores, boxes)
    return dispatch.call("nms_rotated", boxes.detach(), scores.detach(), float(iou_threshold))


def batched_nms_rotated(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    """:func:`nms_rotated` within each class.

    Args:
        boxes: (N, 5) rows of (center x, center y, width, height, angle): any unit of length,
            and degrees counter-clockwise.
        scores: (N,).
        class_ids: (N,) integers: the class, image or level of each box.
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices of the kept boxes of all classes together, by descending score.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: the boxes are not floating point numbers.
    """
    check_boxes(boxes, 5)
    check_scores(scores, boxes)
    check_labels(class_ids, boxes)
    return dispatch.call(
        "batched_nms_rotated",
        boxes.detach(),
        scores.detach(),
        class_ids,
        float(iou_threshold),
    )


def fake_nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


def fake_batched_nms_rotated(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    return fake_nms_rotated(boxes, scores, iou_threshold)


dispatch.define(
    "nms_rotated(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor",
    reference=nms_rotated_reference,
    fake=fake_nms_rotated,
    numba="detectron2.ops.nms_rotated.cpu:nms_rotated",
    triton="detectron2.ops.nms_rotated.gpu:nms_rotated",
)
dispatch.define(
    "batched_nms_rotated(Tensor boxes, Tensor scores, Tensor class_ids, float iou_threshold) "
    "-> Tensor",
    reference=batched_nms_rotated_reference,
    fake=fake_batched_nms_rotated,
    numba="detectron2.ops.nms_rotated.cpu:batched_nms_rotated",
    triton="detectron2.ops.nms_rotated.gpu:batched_nms_rotated",
)
