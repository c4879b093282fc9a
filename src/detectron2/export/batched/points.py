"""Feature maps at points of boxes that say themselves which image they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
from detectron2.projects.point_rend.point_features import get_point_coords_wrt_image

__all__ = ["masks_at_points", "values_at_points"]


def masks_at_points(head: Any, features: dict[str, Tensor], found: Any, images: Tensor) -> Any:
    """`PointRendMaskHead.forward` and that of its kin: `found`, with `pred_masks`.

    Args:
        features: (N, C, H, W) maps by name.
        found: K detections of all images.
        images: (K,) int64.
    """
    boxes = found.pred_boxes.tensor

    def sample(names: Sequence[str], coords: Tensor) -> Tensor:
        points = get_point_coords_wrt_image(boxes, coords)
        scales = [head.feature_scales[name] for name in names]
        values = [
            values_at_points(features[name], images, points * scale)
            for name, scale in zip(names, scales)
        ]
        return torch.cat(values, dim=1)

    mask_rcnn_inference(head.mask_logits(sample, found.pred_classes), [found])
    return found


def values_at_points(feature: Tensor, images: Tensor, points: Tensor) -> Tensor:
    """(K, C, P) values between the centres of cells, zero outside.

    `torch.nn.functional.grid_sample` would need a copy of a whole map for every box.

    Args:
        feature: (N, C, H, W).
        images: (K,) int64.
        points: (K, P, 2) of (x, y) in cells; (0.5, 0.5) is the centre of the first one.
    """
    height, width = feature.shape[-2:]
    channels_last = feature.permute(0, 2, 3, 1)
    centred = points - 0.5
    first = centred.floor()
    share = centred - first
    total = torch.zeros_like(points[..., :1])
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = first[..., 0] + dx, first[..., 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            column = x.clamp(0, width - 1).to(torch.int64)
            row = y.clamp(0, height - 1).to(torch.int64)
            weight = (share[..., 0] if dx else 1 - share[..., 0]) * inside
            weight = weight * (share[..., 1] if dy else 1 - share[..., 1])
            total = total + channels_last[images[:, None], row, column] * weight[..., None]
    return total.transpose(1, 2)
