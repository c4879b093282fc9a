"""ROIAlign on GPU: one program per box and block of output elements, of all levels together.

The elements of a block follow the memory order of the output, so stores are coalesced; for
channels-last maps loads are too, and for channels-first maps neighbouring bins read
neighbouring cells. A program looks up the level of its box and takes that map's address and
strides out of the kernel's arguments: up to `LEVELS` maps are one launch, without a list of the
boxes of each level, so nothing waits for the host. (A tuple of maps as one argument takes
Triton 3.3; the package runs with 3.2.)

Budget, per output element: 16 loads at 2 x 2 samples, mostly from cache, and one store. The
gradient adds the same 16 values atomically, in no fixed order: with
`torch.use_deterministic_algorithms` the reference runs instead.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.launching import EXACT, device_of, divide, real_type
from detectron2.ops.roi_align.reference import (
    multilevel_roi_align_backward_reference,
    multilevel_roi_align_reference,
)
from detectron2.ops.sampling import (
    bin_samples,
    first_visited,
    read_corners,
    spread_to_corners,
)

__all__ = [
    "multilevel_roi_align",
    "multilevel_roi_align_backward",
    "roi_align",
    "roi_align_backward",
]

BLOCK = 256

# Maps of one launch, as many as most pyramids have; the fifth and later ones take another launch.
LEVELS = 4

# What a program needs to know of each map, in the order of the kernel's arguments.
OF_LEVEL = ("height", "width", "image", "channel", "row", "column", "scale")


@triton.jit
def of_level(level, first, second, third, fourth):  # type: ignore[no-untyped-def]
    """That of four numbers which belongs to `level`."""
    lower = tl.where(level == 0, first, second)
    return tl.where(level < 2, lower, tl.where(level == 2, third, fourth))


@triton.jit
def box_in_cells(box, scale, OFFSET: tl.constexpr, MIN_SIDE: tl.constexpr, REAL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Top, left, height and width, in cells, of the box (x0, y0, x1, y1) that `box` points to."""
    x0 = tl.load(box).to(REAL) * scale - OFFSET
    y0 = tl.load(box + 1).to(REAL) * scale - OFFSET
    x1 = tl.load(box + 2).to(REAL) * scale - OFFSET
    y1 = tl.load(box + 3).to(REAL) * scale - OFFSET
    side_y, side_x = y1 - y0, x1 - x0
    if MIN_SIDE > 0:
        side_y, side_x = tl.maximum(side_y, MIN_SIDE), tl.maximum(side_x, MIN_SIDE)
    return y0, x0, side_y, side_x


# Images differ in size: a kernel for every divisibility of every size would be compiled.
@triton.jit(
    do_not_specialize=[
        "first_level", "level_count", "image_count", "channels",
        *(f"{name}{level}" for name in OF_LEVEL for level in range(LEVELS)),
    ]
)  # fmt: skip
def visit_samples(
    data0, data1, data2, data3, pooled, rois, levels,
    first_level, level_count, image_count, channels,
    height0, height1, height2, height3, width0, width1, width2, width3,
    image0, image1, image2, image3, channel0, channel1, channel2, channel3,
    row0, row1, row2, row3, column0, column1, column2, column3, scale0, scale1, scale2, scale3,
    OFFSET: tl.constexpr, MIN_SIDE: tl.constexpr, RATIO: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, REAL: tl.constexpr,
    BACKWARD: tl.constexpr, MANY: tl.constexpr, ALL: tl.constexpr, BLOCK: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Forward: pooled = mean of samples of data. Backward: data += share of pooled.

    Args:
        data0 to data3: maps of any strides, which are `image`, `channel`, `row`, `column`.
        pooled: (K, ROWS * COLUMNS, C) if LAST, else the transpose.
        first_level: level of data0, of `level_count` that are here; others are left alone.
        MANY: whether there is more than data0.
        ALL: whether all levels are here, so that boxes of none of them get zeros.
    """
    blocks = tl.cdiv(channels * ROWS * COLUMNS, BLOCK)  # of a box
    k = (tl.program_id(0) // blocks).to(tl.int64)
    element = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    if LAST:
        channel, cell = element % channels, element // channels
    else:
        channel, cell = element // (ROWS * COLUMNS), element % (ROWS * COLUMNS)
    level = tl.load(levels + k) - first_level
    data, height, width, scale = data0, height0, width0, scale0
    stride_image, stride_channel, stride_row, stride_column = image0, channel0, row0, column0
    if MANY:
        height = of_level(level, height0, height1, height2, height3)
        width = of_level(level, width0, width1, width2, width3)
        scale = of_level(level, scale0, scale1, scale2, scale3)
        stride_image = of_level(level, image0, image1, image2, image3)
        stride_channel = of_level(level, channel0, channel1, channel2, channel3)
        stride_row = of_level(level, row0, row1, row2, row3)
        stride_column = of_level(level, column0, column1, column2, column3)
        if level == 1:
            data = data1
        if level == 2:
            data = data2
        if level == 3:
            data = data3

    image = tl.load(rois + k * 5).to(tl.int64)
    y0, x0, side_y, side_x = box_in_cells(rois + k * 5 + 1, scale, OFFSET, MIN_SIDE, REAL)
    bin_y, samples_y, visits_y = bin_samples(side_y, 2 * height + 8, ROWS, RATIO)
    bin_x, samples_x, visits_x = bin_samples(side_x, 2 * width + 8, COLUMNS, RATIO)
    mine = (level >= 0) & (level < level_count) & (image >= 0) & (image < image_count)
    mine = mine & (height > 0) & (width > 0)
    visits_y = tl.where(mine, visits_y, 0)
    exists = element < tl.where(mine, channels * ROWS * COLUMNS, 0)

    start_y = y0 + (cell // COLUMNS).to(REAL) * bin_y
    start_x = x0 + (cell % COLUMNS).to(REAL) * bin_x
    first_y = first_visited(start_y, -1.0, bin_y, samples_y, visits_y)
    first_x = first_visited(start_x, -1.0, bin_x, samples_x, visits_x)
    count_y, count_x = tl.maximum(samples_y, 1).to(REAL), tl.maximum(samples_x, 1).to(REAL)
    here = data + image * stride_image + channel.to(tl.int64) * stride_channel
    place = pooled + k * (channels * ROWS * COLUMNS) + element
    total = tl.zeros((BLOCK,), REAL)
    if BACKWARD:
        total = tl.load(place, mask=exists, other=0.0).to(REAL) / (count_y * count_x)
    for i in range(visits_y):
        y = start_y + divide((first_y + i + 0.5) * bin_y, count_y + first_y * 0)
        for j in range(visits_x):
            x = start_x + divide((first_x + j + 0.5) * bin_x, count_x + first_x * 0)
            if BACKWARD:
                spread_to_corners(
                    here, y, x, height, width, stride_row, stride_column, exists, total
                )
            else:
                total += read_corners(
                    here, y, x, height, width, stride_row, stride_column, exists, REAL
                )
    if not BACKWARD:
        mean = total / (count_y * count_x)
        if ALL:
            exists = element < channels * ROWS * COLUMNS
        tl.store(place, mean.to(pooled.dtype.element_ty), mask=exists)


def launch(
    maps: Sequence[Tensor],
    scales: Sequence[float],
    pooled: Tensor,
    rois: Tensor,
    levels: Tensor,
    ratio: int,
    aligned: bool,
    backward: bool,
) -> None:
    """Visit the samples of all boxes; the maps and `pooled` are (., C, ., .)."""
    count, channels, height, width = pooled.shape
    if pooled.numel() == 0:
        return
    grid = (count * triton.cdiv(channels * height * width, BLOCK),)
    with device_of(pooled):
        for first in range(0, len(maps), LEVELS):
            here = maps[first : first + LEVELS]
            data, numbers = arguments_of(here, scales[first : first + LEVELS])
            visit_samples[grid](
                *data, pooled, rois, levels, first, len(here), maps[0].shape[0], channels,
                *numbers,
                OFFSET=0.5 if aligned else 0.0, MIN_SIDE=0.0 if aligned else 1.0,
                RATIO=max(ratio, 0), ROWS=height, COLUMNS=width, LAST=is_channels_last(pooled),
                REAL=real_type(maps[0].dtype), BACKWARD=backward, MANY=len(here) > 1,
                ALL=len(maps) <= LEVELS, BLOCK=BLOCK, **EXACT,
            )  # fmt: skip


def arguments_of(
    maps: Sequence[Tensor], scales: Sequence[float]
) -> tuple[list[Tensor], list[float]]:
    """`LEVELS` maps, the first again where there are fewer; and `OF_LEVEL` of them."""
    maps = [*maps, *[maps[0]] * (LEVELS - len(maps))]
    scales = [*scales, *[scales[0]] * (LEVELS - len(scales))]
    of_maps = zip(*((*data.shape[2:], *data.stride()) for data in maps))
    return maps, [*chain.from_iterable(of_maps), *scales]


def loses_digits(scales: Sequence[float], dtype: torch.dtype) -> bool:
    """Whether float64 maps have a scale that is none of float32, as which Triton takes it."""
    return dtype == torch.float64 and any(float(np.float32(scale)) != scale for scale in scales)


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device, last: bool) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device, memory_format=format_of(last)).zero_()


def multilevel_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    height: int,
    width: int,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The Triton forward of :func:`detectron2.ops.multilevel_roi_align`."""
    first = features[0]
    if loses_digits(spatial_scales, first.dtype):
        return multilevel_roi_align_reference(
            features, rois, levels, height, width, spatial_scales, sampling_ratio, aligned
        )
    shape = (rois.shape[0], first.shape[1], height, width)
    pooled = torch.empty(
        shape,
        dtype=first.dtype,
        device=first.device,
        memory_format=format_of(is_channels_last(first)),
    )
    if len(features) > LEVELS:
        pooled.zero_()
    rois = rois.detach().contiguous()
    maps = [feature.detach() for feature in features]
    launch(maps, spatial_scales, pooled, rois, levels, sampling_ratio, aligned, False)
    return pooled


def multilevel_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    sizes: Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    channels_last: Sequence[bool],
) -> list[Tensor]:
    """The Triton backward; `sizes` is N, then Hl, Wl of every level."""
    lossy = loses_digits(spatial_scales, grad.dtype)
    if lossy or torch.are_deterministic_algorithms_enabled():
        return multilevel_roi_align_backward_reference(
            grad, rois, levels, sizes, spatial_scales, sampling_ratio, aligned, channels_last
        )
    grad = grad if is_channels_last(grad) else grad.contiguous()
    rois = rois.detach().contiguous()
    real = compute_dtype(grad.dtype)
    gradients = [
        zeros((sizes[0], grad.shape[1], *size), real, grad.device, last)
        for *size, last in zip(sizes[1::2], sizes[2::2], channels_last)
    ]
    launch(gradients, spatial_scales, grad, rois, levels, sampling_ratio, aligned, True)
    return [gradient.to(grad.dtype) for gradient in gradients]


def roi_align(
    input: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The Triton forward of :func:`detectron2.ops.roi_align`."""
    levels = torch.zeros(rois.shape[0], dtype=torch.int64, device=rois.device)
    return multilevel_roi_align(
        [input], rois, levels, height, width, [spatial_scale], sampling_ratio, aligned
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
    """The Triton backward of :func:`detectron2.ops.roi_align`."""
    levels = torch.zeros(rois.shape[0], dtype=torch.int64, device=rois.device)
    sizes = [input_shape[0], *input_shape[2:]]
    return multilevel_roi_align_backward(
        grad, rois, levels, sizes, [spatial_scale], sampling_ratio, aligned, [channels_last]
    )[0]
