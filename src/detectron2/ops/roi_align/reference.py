"""ROIAlign (Mask R-CNN, https://arxiv.org/abs/1703.06870, section 3) as a list of samples.

Every bin of a box averages bilinear samples on a regular grid inside it. The reference lists
the samples of all boxes, gathers the four cells around each and adds them up per bin.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.formats import format_of, is_channels_last

__all__ = [
    "SampleGrid",
    "average_samples",
    "bilinear_cells",
    "boxes_in_cells",
    "multilevel_roi_align_backward_reference",
    "multilevel_roi_align_reference",
    "roi_align_backward_reference",
    "roi_align_reference",
    "sample_grid",
    "spread_samples",
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
    if ratio > 0:  # so that R does not depend on values
        roi = torch.arange(height.shape[0], device=height.device).repeat_interleave(ratio**2)
    else:
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


def spread_samples(
    grad: Tensor, image: Tensor, y: Tensor, x: Tensor, grid: SampleGrid, input_shape: Sequence[int]
) -> Tensor:
    """Gradient of :func:`average_samples` in `features`: (N, C, H, W) from (K, C, h, w)."""
    images, channels, height, width = input_shape
    share = grad / grid.per_bin.to(grad.dtype)[:, None, None, None]
    share = share.permute(0, 2, 3, 1)[grid.roi]  # (R, h, w, C)
    first_cell = (image * (height * width))[grid.roi][:, None, None]
    total = grad.new_zeros(images * height * width, channels)
    for row, column, weight in bilinear_cells(y, x, height, width):
        cell = first_cell + row * width + column  # (R, h, w)
        total = total.index_add(0, cell.flatten(), (share * weight[..., None]).flatten(0, 2))
    return total.reshape(images, height, width, channels).permute(0, 3, 1, 2)


def boxes_in_cells(rois: Tensor, dtype: torch.dtype, spatial_scale: float, aligned: bool) -> Tensor:
    """(K, 4) rows of (y0, x0, height, width) in the frame where cell centers are integers."""
    offset = 0.5 if aligned else 0.0
    x0, y0, x1, y1 = (rois[:, 1:].to(dtype) * spatial_scale - offset).unbind(1)
    boxes = torch.stack([y0, x0, y1 - y0, x1 - x0], dim=1)
    return boxes if aligned else torch.cat([boxes[:, :2], boxes[:, 2:].clamp(min=1)], dim=1)


def sample_positions(
    boxes: Tensor, height: int, width: int, sampling_ratio: int
) -> tuple[SampleGrid, Tensor, Tensor]:
    """The samples of the (K, 4) boxes in cells: the list, y (R, h, 1) and x (R, 1, w)."""
    y0, x0, roi_height, roi_width = boxes.unbind(1)  # (K,) each
    grid = sample_grid(roi_height, roi_width, (height, width), sampling_ratio)
    positions = []
    for start, side, bins, sample, samples in (
        (y0, roi_height, height, grid.y, grid.rows),
        (x0, roi_width, width, grid.x, grid.columns),
    ):
        index = torch.arange(bins, device=boxes.device, dtype=boxes.dtype)
        bin_side = (side / bins)[grid.roi][:, None]
        bin_start = start[grid.roi][:, None] + index * bin_side
        positions.append(bin_start + sample * bin_side / samples)
    return grid, positions[0][:, :, None], positions[1][:, None, :]


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
    boxes = boxes_in_cells(rois, features.dtype, spatial_scale, aligned)
    grid, y, x = sample_positions(boxes, height, width, sampling_ratio)
    pooled = average_samples(features, rois[:, 0].to(torch.int64), y, x, grid).to(input.dtype)
    return pooled.contiguous(memory_format=format_of(is_channels_last(input)))


def roi_align_backward_reference(
    grad: Tensor,
    rois: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    channels_last: bool,
) -> Tensor:
    """Gradient of :func:`roi_align_reference` in `input`, written out."""
    real = compute_dtype(grad.dtype)
    boxes = boxes_in_cells(rois, real, spatial_scale, aligned)
    grid, y, x = sample_positions(boxes, grad.shape[2], grad.shape[3], sampling_ratio)
    image = rois[:, 0].to(torch.int64)
    spread = spread_samples(grad.to(real), image, y, x, grid, input_shape).to(grad.dtype)
    return spread.contiguous(memory_format=format_of(channels_last))


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
    output = output.contiguous(memory_format=format_of(is_channels_last(features[0])))
    for level, (feature, scale) in enumerate(zip(features, spatial_scales)):
        (members,) = torch.nonzero(levels == level, as_tuple=True)
        pooled = roi_align_reference(
            feature, rois[members], height, width, scale, sampling_ratio, aligned
        )
        output = output.index_put((members,), pooled)
    return output


def multilevel_roi_align_backward_reference(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    sizes: Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    channels_last: Sequence[bool],
) -> list[Tensor]:
    """Gradient of :func:`multilevel_roi_align_reference` in every level.

    Args:
        sizes: N, then Hl, Wl of every level.
    """
    gradients = []
    for level, scale in enumerate(spatial_scales):
        (members,) = torch.nonzero(levels == level, as_tuple=True)
        shape = (sizes[0], grad.shape[1], sizes[1 + 2 * level], sizes[2 + 2 * level])
        gradients.append(
            roi_align_backward_reference(
                grad[members],
                rois[members],
                shape,
                scale,
                sampling_ratio,
                aligned,
                channels_last[level],
            )
        )
    return gradients
