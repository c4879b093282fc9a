"""Non-maximum suppression that an exported file can hold: PyTorch operations and one loop.

The reference of `detectron2.ops` compares all boxes with all others at once, which is fine for
the few of one image but not for a batch. Here boxes are settled in blocks of descending score.
A block needs a (256, N) matrix, and a suppressed box never enters one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectron2.ops.loops import scripted
from detectron2.ops.nms.reference import threshold_below

__all__ = ["batched_nms_in_blocks", "nms_in_blocks"]


def _overlaps(first: Tensor, second: Tensor, threshold: float) -> Tensor:
    """(N, M) True where the IoU of (N, 5) and (M, 5) rows of group and box is above it."""
    width = torch.minimum(first[:, None, 3], second[None, :, 3]) - torch.maximum(
        first[:, None, 1], second[None, :, 1]
    )
    height = torch.minimum(first[:, None, 4], second[None, :, 4]) - torch.maximum(
        first[:, None, 2], second[None, :, 2]
    )
    intersection = width.clamp(min=0) * height.clamp(min=0)
    area = (first[:, 3] - first[:, 1]) * (first[:, 4] - first[:, 2])
    other_area = (second[:, 3] - second[:, 1]) * (second[:, 4] - second[:, 2])
    union = area[:, None] + other_area[None, :] - intersection
    same_group = first[:, None, 0] == second[None, :, 0]
    return (intersection / union > threshold) & same_group


def _keep(rows: Tensor, threshold: float) -> Tensor:
    """(K,) indices of the (N, 5) rows, in order of descending score, that greedy NMS keeps."""
    alive = torch.arange(rows.shape[0], device=rows.device)
    kept = alive[:0]
    while alive.shape[0] > 0:
        block = alive[:256]
        rest = alive[256:]
        suppresses = _overlaps(rows[block], rows[block], threshold).triu(diagonal=1)
        keep = torch.ones([block.shape[0]], dtype=torch.bool, device=rows.device)
        previous = ~keep
        # A box is kept if no kept box before it overlaps it; iterated until that holds.
        while not torch.equal(keep, previous):
            previous = keep
            keep = ~(suppresses & previous[:, None]).any(dim=0)
        chosen = block[keep]
        kept = torch.cat([kept, chosen])
        alive = rest[~_overlaps(rows[chosen], rows[rest], threshold).any(dim=0)]
    return kept


def batched_nms_in_blocks(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    """`detectron2.ops.batched_nms`, for `detectron2.ops.dispatch.substitute` while tracing."""
    order = torch.sort(scores, descending=True, stable=True).indices
    boxes = boxes[order].to(torch.promote_types(boxes.dtype, torch.float32))
    rows = torch.cat([class_ids[order][:, None].to(boxes.dtype), boxes], dim=1)
    return order[scripted(_keep)(rows, threshold_below(iou_threshold, boxes.dtype))]


def nms_in_blocks(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """`detectron2.ops.nms`, for `detectron2.ops.dispatch.substitute` while tracing."""
    return batched_nms_in_blocks(boxes, scores, torch.zeros_like(scores), iou_threshold)
