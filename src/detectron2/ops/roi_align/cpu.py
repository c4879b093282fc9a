"""ROIAlign on CPU: tensors to arrays, work to threads; the loops are in `kernels`."""

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
)
from detectron2.ops.roi_align.kernels import backward, forward
from detectron2.ops.roi_align.reference import boxes_in_cells
from detectron2.ops.threads import parallel_for

__all__ = [
    "multilevel_roi_align",
    "multilevel_roi_align_backward",
    "roi_align",
    "roi_align_backward",
    "warm_up",
]

Array = NDArray[Any]

ROIS_PER_CALL = 8


def boxes_of_levels(
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    aligned: bool,
    real: torch.dtype,
    image_count: int,
) -> list[tuple[Array, Array, Array]]:
    """Image of every box, boxes in cells and which boxes to take in which order, per level."""
    images = image_indices(rois, image_count)
    result = []
    for level, scale in enumerate(scales):
        boxes = boxes_in_cells(rois, real, scale, aligned)
        order = nearby_order(images, boxes)
        if levels is not None:
            order = order[as_array(levels)[order] == level]
        result.append((images, as_array(boxes), order))
    return result


def multilevel_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    height: int,
    width: int,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The Numba forward of :func:`detectron2.ops.multilevel_roi_align`."""
    real = compute_dtype(features[0].dtype)
    last, bins = is_channels_last(features[0]), (height, width)
    images, channels = features[0].shape[:2]
    prepared = boxes_of_levels(rois, levels, spatial_scales, aligned, real, images)
    output = empty_bins(rois.shape[0], channels, bins, last, real)
    calls: list[tuple[Any, ...]] = []
    for feature, boxes in zip(features, prepared):
        count = len(boxes[2])
        if feature.numel() == 0 or count == 0:
            continue
        cells, size = cells_of(feature.detach().to(real), *boxes), tuple(feature.shape[2:])
        for start in range(0, count, ROIS_PER_CALL):
            stop = min(count, start + ROIS_PER_CALL)
            arguments = (cells, size, *boxes, bins, sampling_ratio, output, last)
            calls.append((*arguments, start, stop))

    def work(start: int, stop: int) -> None:
        for arguments in calls[start:stop]:
            forward(*arguments)

    parallel_for(work, len(calls), 1)
    return pooled_tensor(output, bins, last).to(features[0].dtype)


def multilevel_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor | None,
    sizes: Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    channels_last: Sequence[bool],
) -> list[Tensor]:
    """The Numba backward; `sizes` is N, then Hl, Wl of every level."""
    real = compute_dtype(grad.dtype)
    _, channels, *bins = grad.shape
    prepared = boxes_of_levels(rois, levels, spatial_scales, aligned, real, sizes[0])
    grads, last = gradient_of_bins(grad, real)
    maps = [(int(height), int(width)) for height, width in zip(sizes[1::2], sizes[2::2])]
    gradients = [
        np.zeros((sizes[0], height * width, channels), grads.dtype) for height, width in maps
    ]

    def work(start: int, stop: int) -> None:
        for gradient, size, boxes in zip(gradients, maps, prepared):
            if gradient.size and len(boxes[2]):
                backward(
                    gradient, size, *boxes, tuple(bins), sampling_ratio, grads, last, start, stop
                )

    parallel_for(work, channels, channels_per_thread(channels))
    return [
        gradient_of_cells(gradient, size, as_last, *boxes).to(grad.dtype)
        for gradient, size, boxes, as_last in zip(gradients, maps, prepared, channels_last)
    ]


def roi_align(
    input: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The Numba forward of :func:`detectron2.ops.roi_align`."""
    return multilevel_roi_align(
        [input], rois, None, height, width, [spatial_scale], sampling_ratio, aligned
    )


def roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    channels_last: bool,
) -> Tensor:
    """The Numba backward of :func:`detectron2.ops.roi_align`."""
    images, _, height, width = input_shape
    sizes = [images, height, width]
    return multilevel_roi_align_backward(
        grad, rois, None, sizes, [spatial_scale], sampling_ratio, aligned, [channels_last]
    )[0]


def warm_up() -> None:
    """Compile for float32, both memory formats, forward and backward."""
    rois = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
    for memory_format in (torch.contiguous_format, torch.channels_last):
        features = torch.zeros(1, 2, 4, 4).contiguous(memory_format=memory_format)
        pooled = roi_align(features, rois, 2, 2, 1.0, 0, True)
        last = is_channels_last(features)
        roi_align_backward(pooled, rois, features.shape, 1.0, 0, True, last)
