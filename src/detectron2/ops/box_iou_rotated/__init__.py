"""Pairwise intersection over union of rotated boxes."""

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.box_iou_rotated.reference import box_iou_rotated_reference
from detectron2.ops.checks import check_boxes, check_same_device

__all__ = ["box_iou_rotated"]


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair of rotated boxes. Not differentiable.

    Args:
        boxes1: (N, 5) rows of (center x, center y, width, height, angle): any unit of length,
            and degrees counter-clockwise on the screen.
        boxes2: (M, 5), same layout, unit and device.

    Returns:
        (N, M), the promoted dtype of the two. A box without area has IoU 0 with every box.

    Raises:
        ValueError: wrong shape, or tensors on two devices.
        TypeError: the boxes are not floating point numbers.
    """
    check_boxes(boxes1, 5, "boxes1")
    check_boxes(boxes2, 5, "boxes2")
    check_same_device(boxes1, boxes2, "boxes1", "boxes2")
    return dispatch.call("box_iou_rotated", boxes1.detach(), boxes2.detach())


def fake_box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    return boxes1.new_empty(boxes1.shape[0], boxes2.shape[0], dtype=dtype)


dispatch.define(
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    reference=box_iou_rotated_reference,
    fake=fake_box_iou_rotated,
    numba="detectron2.ops.box_iou_rotated.cpu:box_iou_rotated",
    triton="detectron2.ops.box_iou_rotated.gpu:box_iou_rotated",
)
