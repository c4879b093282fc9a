"""Final detections from the outputs of a box head, in results of fixed shape."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import check_same_device
from detectron2.ops.detect_boxes.reference import Found, detect_boxes_reference

__all__ = ["detect_boxes"]


def detect_boxes(
    deltas: Tensor,
    proposals: Tensor,
    scores: Tensor,
    usable: Tensor,
    image_sizes: Tensor,
    *,
    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    scale_clamp: float,
    score_threshold: float,
    iou_threshold: float,
    topk: int,
) -> Found:
    """Decode boxes, clip them, drop low scores, suppress class by class, keep the best.

    Nothing waits for the device: how many boxes are found is known to the device alone.

    Args:
        deltas: (N, R, C * 4) encodings (dx, dy, dw, dh) of a box for each class of each
            proposal, or (N, R, 4) where the classes share one.
        proposals: (N, R, 4) xyxy, in pixels.
        scores: (N, R, C) of the classes, without background.
        usable: (N, R) bool, False for rows to leave out. Rows whose boxes are not all finite
            are left out, too.
        image_sizes: (N, 2) int64 height and width that boxes are clipped to.
        weights: what the deltas are multiplied by.
        scale_clamp: upper bound of dw and dh.
        score_threshold: a detection scores more.
        iou_threshold: of two detections of a class with a higher IoU the better one stays.
        topk: places for detections of each image.

    Returns:
        (N, topk, 4) boxes, (N, topk) scores, classes and rows by descending score, equal scores
        in the order of row and class; zeros in places without a detection; and (N,) int64 how
        many places have one.

    Raises:
        ValueError: wrong shapes, a negative `topk`, or tensors on two devices.
        TypeError: a tensor has another dtype.
    """
    check_arguments(deltas, proposals, scores, usable, image_sizes, topk)
    return dispatch.call(
        "detect_boxes",
        deltas.detach(),
        proposals.detach(),
        scores.detach(),
        usable,
        image_sizes,
        [float(weight) for weight in weights],
        float(scale_clamp),
        float(score_threshold),
        float(iou_threshold),
        int(topk),
    )


def check_arguments(
    deltas: Tensor,
    proposals: Tensor,
    scores: Tensor,
    usable: Tensor,
    image_sizes: Tensor,
    topk: int,
) -> None:
    images, rows, classes = scores.shape if scores.dim() == 3 else (-1, -1, -1)
    expected = {
        "deltas": (deltas, ((images, rows, classes * 4), (images, rows, 4))),
        "proposals": (proposals, ((images, rows, 4),)),
        "usable": (usable, ((images, rows),)),
        "image_sizes": (image_sizes, ((images, 2),)),
    }
    for name, (tensor, shapes) in expected.items():
        if tuple(tensor.shape) not in shapes:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} for scores of {tuple(scores.shape)}; "
                f"expected {' or '.join(map(str, shapes))} with scores (N, R, C)."
            )
        check_same_device(scores, tensor, "scores", name)
    for name, tensor in {"deltas": deltas, "proposals": proposals, "scores": scores}.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has dtype {tensor.dtype}; use a floating point type.")
    if usable.dtype != torch.bool or image_sizes.dtype != torch.int64:
        raise TypeError(
            f"usable is {usable.dtype}, image_sizes {image_sizes.dtype}; use bool and int64."
        )
    if topk < 0:
        raise ValueError(f"topk is {topk}; a result of fixed shape needs a number of places.")


def fake_detect_boxes(
    deltas: Tensor,
    proposals: Tensor,
    scores: Tensor,
    usable: Tensor,
    image_sizes: Tensor,
    weights: Sequence[float],
    scale_clamp: float,
    score_threshold: float,
    iou_threshold: float,
    topk: int,
) -> Found:
    images = scores.shape[0]
    real = torch.promote_types(deltas.dtype, torch.float32)
    return (
        deltas.new_empty(images, topk, 4, dtype=real),
        scores.new_empty(images, topk),
        image_sizes.new_empty(images, topk),
        image_sizes.new_empty(images, topk),
        image_sizes.new_empty(images),
    )


dispatch.define(
    "detect_boxes(Tensor deltas, Tensor proposals, Tensor scores, Tensor usable, "
    "Tensor image_sizes, float[] weights, float scale_clamp, float score_threshold, "
    "float iou_threshold, SymInt topk) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=detect_boxes_reference,
    fake=fake_detect_boxes,
    numba="detectron2.ops.detect_boxes.cpu:detect_boxes",
    triton="detectron2.ops.detect_boxes.gpu:detect_boxes",
)
