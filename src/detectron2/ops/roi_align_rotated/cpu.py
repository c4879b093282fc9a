"""ROIAlign of rotated boxes on CPU; the loops are in `kernels`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.compiled import as_array
from detectron2.ops.formats import is_channels_last
from detectron2.ops.pooling import (
    cells_of,
    channels_per_thread,
    empty_bins,
    gradient_of_bins,
    gradient_of_cells,
    image_indices,
    nearby_order,
    pooled_tensor,
    readable,
)
from detectron2.ops.roi_align_rotated.kernels import backward, forward
from detectron2.ops.roi_align_rotated.reference import rotated_boxes_in_cells
from detectron2.ops.threads import parallel_for

__all__ = ["roi_align_rotated", "roi_align_rotated_backward", "warm_up"]

Array = NDArray[Any]

ROIS_PER_CALL = 8


def extents(boxes: Tensor) -> Tensor:
    """(K, 4) y0, x0, height and width of upright boxes around (K, 6) rotated ones, in cells."""
    center_y, center_x, height, width, cos, sin = boxes.unbind(1)
    cos, sin = cos.abs(), sin.abs()
    # One cell more: rounding must not move a sample out of the box around it.
    high = height.abs() * cos + width.abs() * sin + 2
    wide = height.abs() * sin + width.abs() * cos + 2
    return torch.stack([center_y - high / 2, center_x - wide / 2, high, wide], dim=1)


def roi_align_rotated(
    input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """The Numba forward of :func:`detectron2.ops.roi_align_rotated`."""
    real = compute_dtype(input.dtype)
    last, bins, channels = is_channels_last(input), (height, width), input.shape[1]
    images = image_indices(rois, input.shape[0])
    boxes = rotated_boxes_in_cells(rois, real, spatial_scale)
    around = extents(boxes)
    order = nearby_order(images, around)
    output = empty_bins(rois.shape[0], channels, bins, last, real)
    if output.size and input.numel():
        cells = cells_of(readable(input.detach(), real), images, as_array(around), order)
        size, rows = tuple(input.shape[2:]), as_array(boxes)

        def work(start: int, stop: int) -> None:
            forward(
                cells, size, images, rows, order, bins, sampling_ratio, output, last, start, stop
            )

        parallel_for(work, len(order), ROIS_PER_CALL)
    return pooled_tensor(output, bins, last).to(input.dtype)


def roi_align_rotated_backward(
    grad: Tensor,
    rois: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    channels_last: bool,
) -> Tensor:
    """The Numba backward of :func:`detectron2.ops.roi_align_rotated`."""
    real = compute_dtype(grad.dtype)
    images = image_indices(rois, input_shape[0])
    boxes = rotated_boxes_in_cells(rois, real, spatial_scale)
    around = extents(boxes)
    order = nearby_order(images, around)
    grads, last = gradient_of_bins(grad, real)
    count, channels, *size = input_shape
    gradient = np.zeros((count, size[0] * size[1], channels), grads.dtype)
    rows, bins = as_array(boxes), (grad.shape[2], grad.shape[3])

    def work(start: int, stop: int) -> None:
        backward(
            gradient, tuple(size), images, rows, order, bins, sampling_ratio, grads, last,
            start, stop,
        )  # fmt: skip

    if gradient.size:
        parallel_for(work, channels, channels_per_thread(channels))
    result = gradient_of_cells(
        gradient, (size[0], size[1]), channels_last, images, as_array(around), order
    )
    return result.to(grad.dtype)


def warm_up() -> None:
    """Compile for float32, both memory formats, forward and backward."""
    rois = torch.tensor([[0.0, 2.0, 2.0, 3.0, 3.0, 0.0]])
    for memory_format in (torch.contiguous_format, torch.channels_last):
        features = torch.zeros(1, 2, 4, 4).contiguous(memory_format=memory_format)
        pooled = roi_align_rotated(features, rois, 2, 2, 1.0, 0)
        last = is_channels_last(features)
        roi_align_rotated_backward(pooled, rois, features.shape, 1.0, 0, last)
