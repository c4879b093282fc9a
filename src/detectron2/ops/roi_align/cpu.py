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
from detectron2.ops.layout import (
    move_channels_first,
    move_channels_last,
    no_blocks,
)
from detectron2.ops.roi_align.kernels import backward, forward, mark_blocks
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

NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}
ROIS_PER_CALL = 8
ROWS_PER_BAND = 32
CHANNELS_PER_CALL = 16  # one cache line of float32: no two threads write to the same line


def prepare(
    sizes: Sequence[tuple[int, int]],
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    aligned: bool,
    real: torch.dtype,
    image_count: int,
) -> list[tuple[tuple[int, int], Array, Array, Array]]:
    """(H, W), image of every box, boxes in cells and which boxes to take, of every level."""
    images = as_array(rois[:, 0], torch.int64)
    if len(images) and not (images.min() >= 0 and images.max() < image_count):
        raise ValueError(
            f"rois name images {images.min()} to {images.max()}, but the input holds "
            f"{image_count} images, counted from 0."
        )
    prepared = []
    for level, (size, scale) in enumerate(zip(sizes, scales)):
        in_cells = boxes_in_cells(rois, real, scale, aligned)
        boxes, band = as_array(in_cells), as_array(torch.floor(in_cells[:, 0] / ROWS_PER_BAND))
        # Neighbours one after another find their cells in the cache: 29 ms instead of 52 for
        # 1000 random boxes on a map of 55 MB.
        order = np.lexsort((boxes[:, 1], band, images))
        if levels is not None:
            order = order[as_array(levels)[order] == level]
        prepared.append((size, images, boxes, order))
    return prepared


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
    last = is_channels_last(features[0])
    count, (images, channels) = rois.shape[0], features[0].shape[:2]
    sizes = [(feature.shape[2], feature.shape[3]) for feature in features]
    prepared = prepare(sizes, rois, levels, spatial_scales, aligned, real, images)
    bins = (height, width)
    shape = (count, height * width, channels) if last else (count, channels, height * width)
    # NumPy asks for huge pages, PyTorch does not: the first touch of 50 MB costs 4 ms, not 22.
    output = np.zeros(shape, NUMPY_TYPES[real])
    calls: list[tuple[Any, ...]] = []
    for feature, (size, image_of, boxes, order) in zip(features, prepared):
        if feature.numel() == 0 or len(order) == 0:
            continue
        cells = cells_of(feature.detach().to(real), size, image_of, boxes, order)
        for start in range(0, len(order), ROIS_PER_CALL):
            stop = min(len(order), start + ROIS_PER_CALL)
            arguments = (cells, size, image_of, boxes, order, bins, sampling_ratio, output, last)
            calls.append((*arguments, start, stop))

    def work(start: int, stop: int) -> None:
        for arguments in calls[start:stop]:
            forward(*arguments)

    parallel_for(work, len(calls), 1)
    pooled = torch.from_numpy(output)
    if last:
        pooled = pooled.view(count, height, width, channels).permute(0, 3, 1, 2)
    else:
        pooled = pooled.view(count, channels, height, width)
    return pooled.to(features[0].dtype)


def cells_of(
    feature: Tensor, size: tuple[int, int], images: Array, boxes: Array, order: Array
) -> Array:
    """(N, H * W, C) of a (N, C, H, W) map, at least where the boxes read it."""
    count, channels = feature.shape[:2]
    if is_channels_last(feature):
        return as_array(feature.permute(0, 2, 3, 1)).reshape(count, -1, channels)
    needed = no_blocks(count, size[0] * size[1])
    mark_blocks(needed, size, images, boxes, order)
    return move_channels_last(as_array(feature).reshape(count, channels, -1), needed)


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
    count, channels, height, width = grad.shape
    shapes = [(int(h), int(w)) for h, w in zip(sizes[1::2], sizes[2::2])]
    prepared = prepare(shapes, rois, levels, spatial_scales, aligned, real, sizes[0])
    last = is_channels_last(grad)
    grads = as_array(grad.permute(0, 2, 3, 1) if last else grad, real)
    shape = (count, height * width, channels) if last else (count, channels, height * width)
    grads = grads.reshape(shape)
    gradients = [np.zeros((sizes[0], h * w, channels), grads.dtype) for h, w in shapes]

    def work(start: int, stop: int) -> None:
        for gradient, level in zip(gradients, prepared):
            if gradient.size and len(level[3]):
                backward(
                    gradient, *level, (height, width), sampling_ratio, grads, last, start, stop
                )

    # Threads take channels, not boxes: boxes overlap and would write to the same cells.
    block = -(-channels // (torch.get_num_threads() * CHANNELS_PER_CALL)) * CHANNELS_PER_CALL
    parallel_for(work, channels, max(block, CHANNELS_PER_CALL))
    return [
        gradient_tensor(gradient, level, as_last).to(grad.dtype)
        for gradient, level, as_last in zip(gradients, prepared, channels_last)
    ]


def gradient_tensor(
    gradient: Array, level: tuple[tuple[int, int], Array, Array, Array], channels_last: bool
) -> Tensor:
    """(N, C, H, W) tensor of a (N, H * W, C) array, in the memory format asked for."""
    (height, width), *boxes = level
    images, _, channels = gradient.shape
    if channels_last:
        cells = torch.from_numpy(gradient).view(images, height, width, channels)
        return cells.permute(0, 3, 1, 2)
    needed = no_blocks(images, height * width)
    mark_blocks(needed, (height, width), *boxes)
    planes = move_channels_first(gradient, needed)
    return torch.from_numpy(planes).view(images, channels, height, width)


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
