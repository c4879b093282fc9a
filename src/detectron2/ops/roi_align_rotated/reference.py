"""ROIAlign of rotated boxes (RRPN, https://arxiv.org/abs/1703.01086): samples, then a rotation."""

import math

import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.roi_align.reference import average_samples, sample_grid

__all__ = ["roi_align_rotated_reference"]


def roi_align_rotated_reference(
    input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """(K, C, height, width); see :func:`detectron2.ops.roi_align_rotated`."""
    features = input.to(compute_dtype(input.dtype))
    rois = rois.to(features.dtype)
    center_x, center_y = (rois[:, 1:3] * spatial_scale - 0.5).unbind(1)  # (K,) each, in cells
    roi_width, roi_height = (rois[:, 3:5] * spatial_scale).unbind(1)
    grid = sample_grid(roi_height, roi_width, (height, width), sampling_ratio)
    along = []  # positions in the frame of the box, origin at its center
    for side, bins, sample, samples in (
        (roi_height, height, grid.y, grid.rows),
        (roi_width, width, grid.x, grid.columns),
    ):
        bin_start = torch.arange(bins, device=rois.device, dtype=rois.dtype)
        bin_side = (side / bins)[grid.roi][:, None]
        start = (-side / 2)[grid.roi][:, None]
        along.append(start + bin_start * bin_side + sample * bin_side / samples)
    down, across = along[0][:, :, None], along[1][:, None, :]  # (R, h, 1) and (R, 1, w)

    # The angle turns counter-clockwise on the screen, where y points down.
    angle = (rois[:, 5] * (math.pi / 180))[grid.roi][:, None, None]
    cos, sin = angle.cos(), angle.sin()
    y = down * cos - across * sin + center_y[grid.roi][:, None, None]
    x = down * sin + across * cos + center_x[grid.roi][:, None, None]
    image = rois[:, 0].to(torch.int64)
    return average_samples(features, image, y, x, grid).to(input.dtype)
