"""The best boxes of each image after suppression, in a result of fixed shape."""

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import check_same_device
from detectron2.ops.nms_topk.reference import nms_topk_reference

__all__ = ["nms_topk"]


def nms_topk(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    usable: Tensor,
    iou_threshold: float,
    topk: int,
) -> tuple[Tensor, Tensor]:
    """:func:`detectron2.ops.batched_nms`, or `batched_nms_rotated`, of each image, without waiting
    for the device.

    How many boxes stay is known to the device alone, so there is always room for `topk` of them.

    Args:
        boxes: (N, K, 4) rows of (x0, y0, x1, y1), in any unit; or (N, K, 5) rotated ones of (x
            centre, y centre, width, height, angle), as in `batched_nms_rotated`.
        scores: (N, K).
        groups: (N, K) int64; boxes of different groups never drop one another.
        usable: (N, K) bool, False for boxes to leave out.
        iou_threshold: in [0, 1].
        topk: places in the result for each image.

    Returns:
        (N, topk) int64 indices of boxes of the image by descending score, equal scores in the
        order given, 0 in places without a box; and (N,) int64 how many places have one.

    Raises:
        ValueError: wrong shapes, a negative `topk`, or tensors on two devices.
        TypeError: `groups` or `usable` has another dtype.
    """
    if boxes.dim() != 3 or boxes.shape[2] not in (4, 5) or not boxes.is_floating_point():
        raise ValueError(
            f"boxes is {boxes.dtype} of shape {tuple(boxes.shape)}; expected (N, K, 4) or (N, K, "
            "5) floating point numbers."
        )
    for name, tensor in (("scores", scores), ("groups", groups), ("usable", usable)):
        if tensor.shape != boxes.shape[:2]:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} for boxes of {tuple(boxes.shape)}; "
                "expected one number for each box."
            )
        check_same_device(boxes, tensor, "boxes", name)
    if groups.dtype != torch.int64 or usable.dtype != torch.bool:
        raise TypeError(f"groups is {groups.dtype}, usable {usable.dtype}; use int64 and bool.")
    if topk < 0:
        raise ValueError(f"topk is {topk}; a result of fixed shape needs a number of places.")
    return dispatch.call(
        "nms_topk", boxes.detach(), scores.detach(), groups, usable, float(iou_threshold), int(topk)
    )


def fake_nms_topk(
    boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float, topk: int
) -> tuple[Tensor, Tensor]:
    images = boxes.shape[0]
    return groups.new_empty(images, topk), groups.new_empty(images)


dispatch.define(
    "nms_topk(Tensor boxes, Tensor scores, Tensor groups, Tensor usable, float iou_threshold, "
    "SymInt topk) -> (Tensor, Tensor)",
    reference=nms_topk_reference,
    fake=fake_nms_topk,
    numba="detectron2.ops.nms_topk.cpu:nms_topk",
    triton="detectron2.ops.nms_topk.gpu:nms_topk",
)
