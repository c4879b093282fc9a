"""Intersection over union of axis-aligned boxes, as the formula says it."""

import torch
from torch import Tensor

__all__ = ["box_areas", "box_iou_reference", "compute_dtype"]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which geometry is computed: float32 for half types, else `dtype` itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def box_areas(boxes: Tensor) -> Tensor:
    """(N,) width times height of (N, 4) boxes."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def box_iou_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(N, M) IoU of (N, 4) and (M, 4) boxes; see :func:`detectron2.ops.box_iou`."""
    result_dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    first = boxes1.to(compute_dtype(result_dtype))
    second = boxes2.to(compute_dtype(result_dtype))
    lower = torch.maximum(first[:, None, :2], second[None, :, :2])  # (N, M, 2)
    upper = torch.minimum(first[:, None, 2:], second[None, :, 2:])  # (N, M, 2)
    sides = (upper - lower).clamp(min=0)
    overlap = sides[..., 0] * sides[..., 1]  # (N, M)
    union = box_areas(first)[:, None] + box_areas(second)[None, :] - overlap
    # Where nothing overlaps the union may be zero too: the divisor 1 keeps gradients finite.
    touching = overlap > 0
    iou = torch.where(touching, overlap / torch.where(touching, union, 1), 0)
    return iou.to(result_dtype)
