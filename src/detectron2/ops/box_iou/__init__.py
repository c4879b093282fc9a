"""Pairwise intersection over union of axis-aligned boxes."""

from typing import Any

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.box_iou.reference import box_iou_gradients, box_iou_reference
from detectron2.ops.checks import check_boxes, check_same_device

__all__ = ["box_iou"]


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair of boxes. Differentiable.

    Args:
        boxes1: (N, 4) rows of (x0, y0, x1, y1), in any unit.
        boxes2: (M, 4), same layout, unit and device.

    Returns:
        (N, M), the promoted dtype of the two; half types are computed in float32. Pairs that
        do not overlap give 0, also where both boxes are empty, and so do boxes that are not
        finite.

    Raises:
        ValueError: wrong shape, or tensors on two devices.
        TypeError: the boxes are not floating point numbers.
    """
    check_boxes(boxes1, 4, "boxes1")
    check_boxes(boxes2, 4, "boxes2")
    check_same_device(boxes1, boxes2, "boxes1", "boxes2")
    return dispatch.call("box_iou", boxes1, boxes2)


def fake_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    return boxes1.new_empty(boxes1.shape[0], boxes2.shape[0], dtype=dtype)


def save_box_iou(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def differentiate_box_iou(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return box_iou_gradients(grad, *ctx.saved_tensors)


dispatch.define(
    "box_iou(Tensor boxes1, Tensor boxes2) -> Tensor",
    reference=box_iou_reference,
    fake=fake_box_iou,
    numba="detectron2.ops.box_iou.cpu:box_iou",
    triton="detectron2.ops.box_iou.gpu:box_iou",
    backward=differentiate_box_iou,
    save=save_box_iou,
)
