"""Non-maximum suppression of axis-aligned boxes, over all boxes or within each class."""

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import check_boxes, check_labels, check_scores
from detectron2.ops.nms.reference import batched_nms_reference, nms_reference

__all__ = ["batched_nms", "nms"]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression.

    Boxes are visited by descending score, equal scores in the order given; a box is dropped
    if its IoU with a box kept before it is above the threshold. Half types are computed in
    float32. Comparisons with NaN are false: a box with a NaN or of infinite size neither
    drops another box nor is dropped, and a NaN score counts as the highest.

    Args:
        boxes: (N, 4) rows of (x0, y0, x1, y1), in any unit.
        scores: (N,).
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices of the kept boxes, by descending score.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: the boxes are not floating point numbers.
    """
    check_boxes(boxes, 4)
    check_scores(scores, boxes)
    return dispatch.call("nms", boxes.detach(), scores.detach(), float(iou_threshold))


def batched_nms(boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` within each class: boxes of different classes never drop one another.

    Args:
        boxes: (N, 4) rows of (x0, y0, x1, y1), in any unit, of any sign.
        scores: (N,).
        class_ids: (N,) integers: the class, image or level of each box.
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices of the kept boxes of all classes together, by descending score.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: the boxes are not floating point numbers.
    """
    check_boxes(boxes, 4)
    check_scores(scores, boxes)
    check_labels(class_ids, boxes)
    return dispatch.call(
        "batched_nms",
        boxes.detach(),
        scores.detach(),
        class_ids,
        float(iou_threshold),
    )


def fake_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


def fake_batched_nms(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    return fake_nms(boxes, scores, iou_threshold)


dispatch.define(
    "nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor",
    reference=nms_reference,
    fake=fake_nms,
    numba="detectron2.ops.nms.cpu:nms",
    triton="detectron2.ops.nms.gpu:nms",
)
dispatch.define(
    "batched_nms(Tensor boxes, Tensor scores, Tensor class_ids, float iou_threshold) -> Tensor",
    reference=batched_nms_reference,
    fake=fake_batched_nms,
    numba="detectron2.ops.nms.cpu:batched_nms",
    triton="detectron2.ops.nms.gpu:batched_nms",
)
