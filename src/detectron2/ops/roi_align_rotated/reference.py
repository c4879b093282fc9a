"""ROIAlign of rotated boxes (RRPN, https://arxiv.org/abs/1703.01086): samples, then a rotation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.roi_align.reference import (
    SampleGrid,
    average_samples,
    sample_grid,
    spread_samples,
)

__all__ = [
    "roi_align_rotated_backward_reference",
    "roi_align_rotated_reference",
    "rotated_boxes_in_cells",
]


def rotated_boxes_in_cells(rois: Tensor, dtype: torch.dtype, spatial_scale: float) -> Tensor:
    """(K, 6) rows of center y, center x, height, width, cosine and sine.

    Lengths are in cells, and cell centers are integers.
    """
    center_x, center_y = (rois[:, 1:3].to(dtype) * spatial_scale - 0.5).unbind(1)
    width, height = (rois[:, 3:5].to(dtype) * spatial_scale).unbind(1)
    radians = rois[:, 5].to(dtype) * (math.pi / 180)
    return torch.stack([center_y, center_x, height, width, radians.cos(), radians.sin()], dim=1)


def rotated_positions(
    boxes: Tensor, height: int, width: int, sampling_ratio: int
) -> tuple[SampleGrid, Tensor, Tensor]:
    """The samples of (K, 6) boxes: the list, and their y and x (R, h, w) in cells."""
    center_y, center_x, box_height, box_width, cos, sin = boxes.unbind(1)
    grid = sample_grid(box_height, box_width, (height, width), sampling_ratio)
    along = []  # positions in the frame of the box, origin at its center
    for side, bins, sample, samples in (
        (box_height, height, grid.y, grid.rows),
        (box_width, width, grid.x, grid.columns),
    ):
        index = torch.arange(bins, device=boxes.device, dtype=boxes.dtype)
        bin_side = (side / bins)[grid.roi][:, None]
        bin_start = (-side / 2)[grid.roi][:, None] + index * bin_side
        along.append(bin_start + sample * bin_side / samples)
    down, across = along[0][:, :, None], along[1][:, None, :]  # (R, h, 1) and (R, 1, w)
    # The angle turns counter-clockwise on the screen, where y points down.
    cos, sin = cos[grid.roi][:, None, None], sin[grid.roi][:, None, None]
    y = down * cos - across * sin + center_y[grid.roi][:, None, None]
    x = down * sin + across * cos + center_x[grid.roi][:, None, None]
    return grid, y, x


def roi_align_rotated_reference(
    input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """(K, C, height, width); see :func:`detectron2.ops.roi_align_rotated`."""
    features = input.to(compute_dtype(input.dtype))
    boxes = rotated_boxes_in_cells(rois, features.dtype, spatial_scale)
    grid, y, x = rotated_positions(boxes, height, width, sampling_ratio)
    pooled = average_samples(features, rois[:, 0].to(torch.int64), y, x, grid).to(input.dtype)
    return pooled.contiguous(memory_format=format_of(is_channels_last(input)))


def roi_align_rotated_backward_reference(
    grad: Tensor,
    rois: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    channels_last: bool,
) -> Tensor:
    """Gradient of :func:`roi_align_rotated_reference` in `input`, written out."""
    real = compute_dtype(grad.dtype)
    boxes = rotated_boxes_in_cells(rois, real, spatial_scale)
    grid, y, x = rotated_positions(boxes, grad.shape[2], grad.shape[3], sampling_ratio)
    image = rois[:, 0].to(torch.int64)
    spread = spread_samples(grad.to(real), image, y, x, grid, input_shape).to(grad.dtype)
    return spread.contiguous(memory_format=format_of(channels_last))
