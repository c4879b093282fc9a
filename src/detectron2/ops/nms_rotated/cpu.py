"""Suppression of rotated boxes on CPU, class by class; the loops are in `box_iou_rotated`.

As in `nms`, boxes are sorted by class and then by score. Budget: at most N^2 / 2 pairs of one
class. Measured on one core (Xeon, AVX-512): 1000 boxes take 5 ms where few and 16 where most
pairs overlap, the reference 1.9 s (benchmarks/ops/nms_rotated.py).
"""

import numpy as np
import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.box_iou_rotated.kernels import describe, suppress_runs
from detectron2.ops.compiled import as_array
from detectron2.ops.nms.reference import score_order, threshold_below
from detectron2.ops.nms.runs import class_runs

__all__ = ["batched_nms_rotated", "nms_rotated", "warm_up"]


def kept(boxes: Tensor, scores: Tensor, class_ids: Tensor | None, iou_threshold: float) -> Tensor:
    order = as_array(score_order(scores))
    place, starts = class_runs(order, class_ids)
    real = compute_dtype(boxes.dtype)
    shapes = describe(as_array(boxes, torch.float64)[order[place]])
    threshold = as_array(torch.tensor([threshold_below(iou_threshold, real)], dtype=real))
    keep = np.ones(len(order), np.bool_)
    suppress_runs(shapes, place, starts, threshold, keep)
    return torch.from_numpy(order[keep])


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The Numba version of :func:`detectron2.ops.nms_rotated`."""
    return kept(boxes, scores, None, iou_threshold)


def batched_nms_rotated(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    """The Numba version of :func:`detectron2.ops.batched_nms_rotated`."""
    return kept(boxes, scores, class_ids, iou_threshold)


def warm_up() -> None:
    """Compile for float32."""
    boxes, one = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0]]), torch.ones(1)
    batched_nms_rotated(boxes, one, torch.zeros(1, dtype=torch.int64), 0.5)
