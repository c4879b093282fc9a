"""Pairwise intersection over union of axis-aligned boxes."""

from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.box_iou.reference import box_iou_reference
from detectron2.ops.checks import check_boxes, check_same_device

__all__ = ["box_iou"]


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair of boxes. Differentiable.

    Args:
        boxes1: (N, 4) rows of (x0, y0, x1, y1), in any unit.
        boxes2: (M, 4), same layout, unit and device.

    Returns:
        (N, M), the promoted dtype of the two; half types are computed in float32. Pairs that
        do not overlap give 0, also where both boxes are empty.

    Raises:
        ValueError: wrong shape, or tensors on two devices.
        TypeError: the boxes are not floating point numbers.
    """
    check_boxes(boxes1, 4, "boxes1")
    check_boxes(boxes2, 4, "boxes2")
    check_same_device(boxes1, boxes2, "boxes1", "boxes2")
    return dispatch.call("box_iou", boxes1, boxes2)


dispatch.register("box_iou", reference=box_iou_reference)
