"""Intersection over union of axis-aligned boxes, as the formula says it."""

import torch
from torch import Tensor

__all__ = ["box_areas", "box_iou_gradients", "box_iou_reference", "compute_dtype"]


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
    sides = [
        torch.minimum(first[:, None, axis + 2], second[None, :, axis + 2])
        - torch.maximum(first[:, None, axis], second[None, :, axis])
        for axis in (0, 1)
    ]
    overlap = sides[0].clamp(min=0) * sides[1].clamp(min=0)  # (N, M)
    union = box_areas(first)[:, None] + box_areas(second)[None, :] - overlap
    # Where nothing overlaps the union may be zero too: the divisor 1 keeps gradients finite.
    touching = (overlap > 0) & union.isfinite()
    iou = torch.where(touching, overlap / torch.where(touching, union, 1), 0)
    return iou.to(result_dtype)


def box_iou_gradients(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`box_iou_reference` in both sets of boxes, from its (N, M) gradient.

    With common area I, union U = A1 + A2 - I and IoU = I / U:
    d IoU / d I = (U + I) / U^2 and d IoU / d A = -I / U^2.
    """
    real = compute_dtype(grad.dtype)
    first, second = boxes1.to(real)[:, None, :], boxes2.to(real)[None, :, :]
    lower = torch.maximum(first[..., :2], second[..., :2])  # (N, M, 2)
    upper = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (upper - lower).clamp(min=0)
    common = sides.prod(dim=2)  # (N, M)
    union = box_areas(boxes1.to(real))[:, None] + box_areas(boxes2.to(real))[None, :] - common
    touching = (common > 0) & union.isfinite()
    union = torch.where(touching, union, 1)
    grad = torch.where(touching, grad.to(real), 0)
    of_sides = (grad * (union + common) / union**2)[..., None] * sides.flip(2)  # (N, M, 2)
    of_area = -grad * common / union**2  # (N, M)
    gradients = []
    for own, other, dim in ((first, second, 1), (second, first, 0)):
        lengths = (own[..., 2:] - own[..., :2]).squeeze(dim).flip(1)  # of the other axis
        from_area = of_area.sum(dim)[:, None] * lengths
        # Where two sides coincide each box gets half, as torch.minimum does it.
        low = 0.5 * ((own[..., :2] > other[..., :2]).to(real) + (own[..., :2] >= other[..., :2]))
        high = 0.5 * ((own[..., 2:] < other[..., 2:]).to(real) + (own[..., 2:] <= other[..., 2:]))
        gradients.append(
            torch.cat(
                [-(of_sides * low).sum(dim) - from_area, (of_sides * high).sum(dim) + from_area], 1
            )
        )
    return gradients[0].to(boxes1.dtype), gradients[1].to(boxes2.dtype)
