"""ROIAlign (Mask R-CNN, https://arxiv.org/abs/1703.06870, section 3) as a list of samples.

Every bin of a box averages bilinear samples on a regular grid inside it. The reference lists
the samples of all boxes, gathers the four cells around each and adds them up per bin.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype

__all__ = [
    "SampleGrid",
    "average_samples",
    "bilinear_cells",
    "multilevel_roi_align_reference",
    "roi_align_reference",
    "sample_grid",
]


class SampleGrid(NamedTuple):
    """The samples of a bin, listed for all boxes: R rows, each serves every bin of its box."""

    roi: Tensor  # (R,) int64 index of the box
    y: Tensor  # (R, 1) row of the sample within its bin, at the half: 0.5, 1.5, ...
    x: Tensor  # (R, 1) column of the sample within its bin
    rows: Tensor  # (R, 1) rows per bin of the box
    columns: Tensor  # (R, 1) columns per bin of the box
    per_bin: Tensor  # (K,) samples per bin of each box, at least 1


def sample_grid(height: Tensor, width: Tensor, size: tuple[int, int], ratio: int) -> SampleGrid:
    """List the samples of K boxes.

    Args:
        height: (K,) of the boxes, in feature cells.
        width: (K,) of the boxes, in feature cells.
        size: (h, w) bins per box.
        ratio: samples per bin and axis; 0 or less takes about one sample per cell, and none
            where a side of the box is negative, zero or not finite.
    """
    if ratio > 0:
        rows = columns = torch.full_like(height, ratio, dtype=torch.int64)
    else:
        rows, columns = (
            torch.where(side.isfinite(), torch.ceil(side / bins), 0).clamp(min=0).to(torch.int64)
            for side, bins in ((height, size[0]), (width, size[1]))
        )
    per_bin = rows * columns  # (K,)
    roi = torch.repeat_interleave(per_bin)  # (R,)
    first_row = per_bin.cumsum(0) - per_bin  # (K,) where the samples of a box start in the list
    within = torch.arange(roi.shape[0], device=roi.device) - first_row[roi]
    y = torch.div(within, columns[roi], rounding_mode="floor")
    x = within - y * columns[roi]
    y, x = (index.to(height.dtype)[:, None] + 0.5 for index in (y, x))
    rows, columns = (count[roi].to(height.dtype)[:, None] for count in (rows, columns))
    return SampleGrid(roi, y, x, rows, columns, per_bin.clamp(min=1))


def bilinear_cells(
    y: Tensor, x: Tensor, height: int, width: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The four cells around every sample and their weights.

    A sample up to one cell outside of the map takes the value of the border; further out,
    and where it is NaN, its weights are zero.

    Args:
        y, x: positions in cells, cell centers at integers; any shapes that broadcast.

    Returns:
        Four times (row, column, weight), rows and columns int64 and inside the map.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    axes = []
    for position, length in ((y, height), (x, width)):
        position = torch.where(inside, position, 0).clamp(min=0, max=length - 1)
        low = position.floor()
        axes.append(
            (low.to(torch.int64), (low + 1).clamp(max=length - 1).to(torch.int64), position - low)
        )
    (top, bottom, down), (left, right, across) = axes
    down, up = torch.where(inside, down, 0), torch.where(inside, 1 - down, 0)
    return [
        (top, left, up * (1 - across)),
        (top, right, up * across),
        (bottom, left, down * (1 - across)),
        (bottom, right, down * across),
    ]


def average_samples(
    features: Tensor, image: Tensor, y: Tensor, x: Tensor, grid: SampleGrid
) -> Tensor:
    """Mean over the samples of every bin.

    Args:
        features: (N, C, H, W) in the type of the computation.
        image: (K,) int64 index of the image of each box.
        y: (R, h, w) or broadcastable positions of the samples.
        x: same.
        grid: which box each of the R samples belongs to.

    Returns:
        (K, C, h, w).
    """
    cells = features.permute(0, 2, 3, 1)  # (N, H, W, C)
    image_of_sample = image[grid.roi][:, None, None]
    size = torch.broadcast_shapes(y.shape, x.shape)[1:]
    total = features.new_zeros(image.shape[0], *size, features.shape[1])
    for row, column, weight in bilinear_cells(y, x, *features.shape[2:]):
        values = cells[image_of_sample, row, column] * weight[..., None]  # (R, h, w, C)
        total = total.index_add(0, grid.roi, values)
    mean = total / grid.per_bin.to(total.dtype)[:, None, None, None]
    return mean.permute(0, 3, 1, 2)


def roi_align_reference(
    input: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """(K, C, height, width); see :func:`detectron2.ops.roi_align`."""
    features = input.to(compute_dtype(input.dtype))
    rois = rois.to(features.dtype)
    offset = 0.5 if aligned else 0.0
    x0, y0, x1, y1 = (rois[:, 1:] * spatial_scale - offset).unbind(1)  # (K,) each, in cells
    roi_width, roi_height = x1 - x0, y1 - y0
    if not aligned:
        roi_width, roi_height = roi_width.clamp(min=1), roi_height.clamp(min=1)
    grid = sample_grid(roi_height, roi_width, (height, width), sampling_ratio)
    positions = []
    for start, side, bins, sample, samples in (
        (y0, roi_height, height, grid.y, grid.rows),
        (x0, roi_width, width, grid.x, grid.columns),
    ):
        bin_start = torch.arange(bins, device=rois.device, dtype=rois.dtype)
        bin_side = (side / bins)[grid.roi][:, None]
        positions.append(
            start[grid.roi][:, None] + bin_start * bin_side + sample * bin_side / samples
        )
    y, x = positions  # (R, h) and (R, w)
    image = rois[:, 0].to(torch.int64)
    output = average_samples(features, image, y[:, :, None], x[:, None, :], grid)
    return output.to(input.dtype)


def multilevel_roi_align_reference(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    height: int,
    width: int,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """(K, C, height, width); see :func:`detectron2.ops.multilevel_roi_align`."""
    output = features[0].new_zeros(rois.shape[0], features[0].shape[1], height, width)
    for level, (feature, scale) in enumerate(zip(features, spatial_scales)):
        (of_level,) = torch.nonzero(levels == level, as_tuple=True)
        pooled = roi_align_reference(
            feature, rois[of_level], height, width, scale, sampling_ratio, aligned
        )
        output = output.index_put((of_level,), pooled)
    return output
