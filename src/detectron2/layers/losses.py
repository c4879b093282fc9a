"""Box regression losses: generalised IoU (Rezatofighi et al. 2019), distance and complete IoU
(Zheng et al. 2020). None of them waits for a GPU."""

import math

import torch
from torch import Tensor

__all__ = ["ciou_loss", "diou_loss", "giou_loss"]


def giou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Generalised-IoU loss (algorithm 1): 1 - IoU + the share of the smallest box around both
    that neither covers.

    Args:
        boxes1: (..., 4) of (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1.
        boxes2: the same shape.
        reduction: ``"none"``, ``"mean"`` (0 without boxes) or ``"sum"``.
        eps: added to denominators.

    Returns:
        (...,) losses in [0, 2], or their mean or sum.
    """
    min1, max1 = boxes1[..., :2], boxes1[..., 2:]
    min2, max2 = boxes2[..., :2], boxes2[..., 2:]
    overlap = _area((torch.minimum(max1, max2) - torch.maximum(min1, min2)).clamp(min=0))
    union = _area(max1 - min1) + _area(max2 - min2) - overlap
    around = _area(torch.maximum(max1, max2) - torch.minimum(min1, min2))
    loss = 1 - overlap / (union + eps) + (around - union) / (around + eps)
    return _reduce(loss, reduction)


def diou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Distance-IoU loss (eq. 7): 1 - IoU + squared distance of the centres over the squared
    diagonal of the smallest box around both.

    Args:
        boxes1: (..., 4) of (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1.
        boxes2: the same shape.
        reduction: ``"none"``, ``"mean"`` (0 without boxes) or ``"sum"``.
        eps: added to denominators.

    Returns:
        (...,) losses in [0, 2], or their mean or sum.
    """
    return _reduce(_diou(boxes1, boxes2, eps)[0], reduction)


def ciou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Complete-IoU loss (eq. 10): the distance-IoU loss plus alpha * v, where v compares the
    aspect ratios (eq. 9) and the weight alpha (eq. 11) counts as a constant.

    Args:
        boxes1: (..., 4) of (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1.
        boxes2: the same shape.
        reduction: ``"none"``, ``"mean"`` (0 without boxes) or ``"sum"``.
        eps: added to denominators.

    Returns:
        (...,) losses, or their mean or sum.
    """
    loss, iou = _diou(boxes1, boxes2, eps)
    v = (4 / math.pi**2) * (_aspect_angle(boxes2) - _aspect_angle(boxes1)) ** 2
    with torch.no_grad():
        alpha = v / (1 - iou + v + eps)
    return _reduce(loss + alpha * v, reduction)


def _diou(boxes1: Tensor, boxes2: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Losses (...,) and IoUs (...,)."""
    min1, max1 = boxes1[..., :2], boxes1[..., 2:]
    min2, max2 = boxes2[..., :2], boxes2[..., 2:]
    overlap = _area((torch.minimum(max1, max2) - torch.maximum(min1, min2)).clamp(min=0))
    iou = overlap / (_area(max1 - min1) + _area(max2 - min2) - overlap + eps)
    around = torch.maximum(max1, max2) - torch.minimum(min1, min2)
    between = (min1 + max1 - min2 - max2) / 2
    distance = between.square().sum(dim=-1) / (around.square().sum(dim=-1) + eps)
    return 1 - iou + distance, iou


def _aspect_angle(boxes: Tensor) -> Tensor:
    """(...,) atan(width / height); 0 without a gradient for a box that has neither."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    is_point = (width == 0) & (height == 0)  # where torch before 2.7 has a gradient of NaN
    return torch.atan2(width.masked_fill(is_point, 0), height.masked_fill(is_point, 1))


def _area(sizes: Tensor) -> Tensor:
    """(...,) from (..., 2); torch.prod would look for zeros in its backward pass."""
    return sizes[..., 0] * sizes[..., 1]


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        # The mean of nothing would be NaN; the sum is 0 and keeps the graph.
        return loss.mean() if loss.numel() > 0 else loss.sum()
    return loss.sum() if reduction == "sum" else loss
