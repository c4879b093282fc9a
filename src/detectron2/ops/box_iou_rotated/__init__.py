"""Pairwise intersection over union of rotated boxes."""

from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.box_iou_rotated.reference import box_iou_rotated_reference
from detectron2.ops.checks import check_boxes, check_same_device

__all__ = ["box_iou_rotated"]


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair of rotated boxes.

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
    return dispatch.call("box_iou_rotated", boxes1, boxes2)


dispatch.register("box_iou_rotated", reference=box_iou_rotated_reference)
