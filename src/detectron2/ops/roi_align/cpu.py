"""ROIAlign on CPU: tensors to arrays, work to threads; the loops are in `kernels`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.compiled import as_array
from detectron2.ops.formats import is_channels_last
from detectron2.ops.layout import mark_blocks, no_blocks, to_last
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
from detectron2.ops.roi_align.kernels import backward, forward
from detectron2.ops.roi_align.reference import boxes_in_cells
from detectron2.ops.roi_align.tables import sampling_tables
from detectron2.ops.threads import parallel_for

__all__ = [
    "multilevel_roi_align",
    "multilevel_roi_align_backward",
    "roi_align",
    "roi_align_backward",
    "warm_up",
]

Array = NDArray[Any]
Work = Callable[[], None]

ROIS_PER_CALL = 8
CHANNELS_PER_STRIP = 32
# Fewer boxes of a level read little of its map, for which each strip is a call of its own: one box
# takes 1.5 instead of 1.7 ms in one thread, ten 2.3 instead of 3.6, a hundred 15 instead of 11.
BOXES_FOR_STRIPS = 32


@dataclass
class Level:
    """A map of features, as a tensor and as arrays, and the boxes that are pooled from it."""

    feature: Tensor  # (N, C, H, W)
    images: Array  # (K,) int64, of these boxes
    boxes: Array  # (K, 4) y0, x0, height and width in cells
    rows: Array  # (K,) of the boxes in the output
    tables: tuple[Array, ...]

    @property
    def size(self) -> tuple[int, int]:
        return (self.feature.shape[2], self.feature.shape[3])


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


def pool_boxes(level: Level, bins: tuple[int, int], output: Array, last: bool) -> list[Work]:
    """Calls that pool a few boxes each, in all channels, from channels-last cells."""
    count = len(level.rows)
    everything = np.arange(count)
    cells = cells_of(level.feature, level.images, level.boxes, everything)

    def work(start: int) -> None:
        stop = min(count, start + ROIS_PER_CALL)
        forward(
            cells, level.size, level.images, level.tables, bins, level.rows, output, last, 0,
            start, stop,
        )  # fmt: skip

    return [partial(work, start) for start in range(0, count, ROIS_PER_CALL)]


def suits_strips(level: Level) -> bool:
    """Whether `pool_strips` is faster than `pool_boxes`, for an output of channels-first memory."""
    # With fewer strips than threads some threads would have nothing to do.
    strips = level.feature.shape[1] // CHANNELS_PER_STRIP
    return (
        strips >= torch.get_num_threads()
        and len(level.rows) >= BOXES_FOR_STRIPS
        and not is_channels_last(level.feature)
    )


def pool_strips(level: Level, bins: tuple[int, int], output: Array) -> list[Work]:
    """Calls that pool all boxes of an image, in a few channels each, from channels-first maps.

    A strip of channels is turned into channels-last cells that fit the cache, and those of the
    whole map, 55 MB on 200x272 cells with 256 channels, are never written to memory.
    """
    count, channels, height, width = level.feature.shape
    planes = as_array(level.feature).reshape(count, channels, -1)
    needed = no_blocks(count, height * width)
    mark_blocks(needed, level.size, level.images, level.boxes, np.arange(len(level.rows)))
    bounds = np.searchsorted(level.images, np.arange(count + 1))  # boxes are in order of images
    in_strip = np.zeros_like(level.images)

    def work(image: int, channel: int) -> None:
        stop = min(channels, channel + CHANNELS_PER_STRIP)
        strip = np.empty((1, height * width, stop - channel), planes.dtype)
        blocks = needed[image : image + 1]
        to_last(planes[image : image + 1, channel:stop], strip, blocks, 0, blocks.size)
        forward(
            strip, level.size, in_strip, level.tables, bins, level.rows, output, False, channel,
            bounds[image], bounds[image + 1],
        )  # fmt: skip

    return [
        partial(work, image, channel)
        for image in np.unique(level.images)
        for channel in range(0, channels, CHANNELS_PER_STRIP)
    ]


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
    pooled = sum(len(order) for one, (*_, order) in zip(features, prepared) if one.numel())
    output = empty_bins(
        rois.shape[0], channels, bins, last, real, all_written=pooled == rois.shape[0]
    )
    calls: list[Work] = []
    for feature, (image_of, boxes, order) in zip(features, prepared):
        if feature.numel() == 0 or len(order) == 0:
            continue
        feature, boxes = readable(feature.detach(), real), boxes[order]
        size = (feature.shape[2], feature.shape[3])
        tables = sampling_tables(boxes, size, bins, sampling_ratio)
        level = Level(feature, image_of[order], boxes, order, tables)
        if not last and suits_strips(level):
            calls += pool_strips(level, bins, output)
        else:
            calls += pool_boxes(level, bins, output, last)

    def work(start: int, stop: int) -> None:
        for call in calls[start:stop]:
            call()

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
    calls = []
    for gradient, size, (images, boxes, order) in zip(gradients, maps, prepared):
        if gradient.size and len(order):
            tables = sampling_tables(boxes[order], size, (bins[0], bins[1]), sampling_ratio)
            of_map = (gradient, size, images[order], tables, (bins[0], bins[1]), order)
            calls.append(partial(backward, *of_map, grads, last))

    def work(start: int, stop: int) -> None:
        for call in calls:
            call(start, stop)

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
