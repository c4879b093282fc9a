"""Greedy non-maximum suppression, written as the fixed point of its definition."""

import numpy as np
import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import box_areas, compute_dtype
from detectron2.ops.loops import scripted

__all__ = [
    "batched_nms_reference",
    "greedy_keep",
    "nms_reference",
    "score_order",
    "threshold_below",
]


def score_order(scores: Tensor) -> Tensor:
    """(N,) indices by descending score; equal scores keep their order."""
    return torch.sort(scores, descending=True, stable=True).indices


def threshold_below(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of `dtype` that is at most `threshold`.

    An IoU of that type is above the one exactly if it is above the other. Rounding to nearest
    would not do: 0.6 becomes 0.60000002 in float32, and an IoU of just that would survive.
    """
    if dtype == torch.float64:
        return threshold
    rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(rounded)


def overlaps(boxes: Tensor, iou_threshold: float) -> Tensor:
    """(N, N) True where the IoU of two of the (N, 4) boxes is above the threshold.

    Two empty boxes have IoU 0/0, which is above nothing; so have boxes with a NaN.
    """
    boxes = boxes.to(compute_dtype(boxes.dtype))
    threshold = threshold_below(iou_threshold, boxes.dtype)
    sides = [
        torch.minimum(boxes[:, None, axis + 2], boxes[None, :, axis + 2])
        - torch.maximum(boxes[:, None, axis], boxes[None, :, axis])
        for axis in (0, 1)
    ]
    intersection = sides[0].clamp(min=0) * sides[1].clamp(min=0)  # (N, N)
    areas = box_areas(boxes)
    return intersection / (areas[:, None] + areas[None, :] - intersection) > threshold


def greedy_keep(overlapping: Tensor) -> Tensor:
    """(N,) True for the boxes that greedy suppression keeps.

    A box is kept if no kept box before it overlaps it. That sentence is iterated until it
    holds: one round settles at least one more box, in practice a few rounds settle all.

    Args:
        overlapping: (N, N) bool, rows and columns in order of descending score.
    """
    suppresses = overlapping.triu(diagonal=1)  # [earlier, later]
    # The number of rounds depends on the values, so a tracer has to be shown the loop.
    if torch.jit.is_tracing():
        return scripted(settle)(suppresses)
    if torch.compiler.is_compiling():
        return settle_in_graph(suppresses)
    return settle(suppresses)


def settle(suppresses: Tensor) -> Tensor:
    """(N,) solution of keep = not any(suppresses and keep), by iteration. Can be scripted."""
    keep = torch.ones([suppresses.shape[0]], dtype=torch.bool, device=suppresses.device)
    previous = ~keep
    while not torch.equal(keep, previous):
        previous = keep
        keep = ~(suppresses & previous[:, None]).any(dim=0)
    return keep


def settle_in_graph(suppresses: Tensor) -> Tensor:
    """:func:`settle` as a loop in the exported graph."""
    from torch._higher_order_ops.while_loop import while_loop

    def unsettled(keep: Tensor, previous: Tensor) -> Tensor:
        return (keep != previous).any()

    # How many suppress each, by a product: ten times as fast as `any` of 25 million truths.
    weights = suppresses.float()

    def another_round(keep: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        return keep.float() @ weights < 0.5, keep.clone()

    keep = torch.ones_like(suppresses[:, 0])
    return while_loop(unsettled, another_round, (keep, ~keep))[0]


def nms_reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """(K,) kept indices; see :func:`detectron2.ops.nms`."""
    order = score_order(scores)
    return order[greedy_keep(overlaps(boxes[order], iou_threshold))]


def batched_nms_reference(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    """(K,) kept indices; see :func:`detectron2.ops.batched_nms`."""
    order = score_order(scores)
    classes = class_ids[order]
    same_class = classes[:, None] == classes[None, :]
    return order[greedy_keep(overlaps(boxes[order], iou_threshold) & same_class)]
