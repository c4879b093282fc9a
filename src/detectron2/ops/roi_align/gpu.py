"""ROIAlign on GPU: one program per box and block of output elements.

The elements of a block follow the memory order of the output, so stores are coalesced; for
channels-last maps loads are too, and for channels-first maps neighbouring bins read
neighbouring cells. A box of another level does no work, so all levels share one output without
a list of their boxes, and nothing waits for the host.

Budget, per output element: 16 loads at 2 x 2 samples, mostly from cache, and one store. The
gradient adds the same 16 values atomically, in no fixed order: with
`torch.use_deterministic_algorithms` the reference runs instead.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.launching import EXACT, device_of, divide, real_type
from detectron2.ops.roi_align.reference import multilevel_roi_align_backward_reference
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


# Images differ in size: a kernel for every divisibility of every size would be compiled.
@triton.jit(
    do_not_specialize=[
        "level", "image_count", "channels", "height", "width", "stride_image", "stride_row",
    ]
)  # fmt: skip
def visit_samples(
    data, pooled, rois, levels, level, image_count, channels, height, width,
    stride_image, stride_channel, stride_row, stride_column, scale,
    OFFSET: tl.constexpr, MIN_SIDE: tl.constexpr, RATIO: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, REAL: tl.constexpr,
    BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Forward: pooled = mean of samples of data. Backward: data += share of pooled.

    `data` has any strides; `pooled` is (K, ROWS * COLUMNS, C) if LAST, else the transpose.
    """
    k = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if LAST:
        channel, cell = element % channels, element // channels
    else:
        channel, cell = element // (ROWS * COLUMNS), element % (ROWS * COLUMNS)

    image = tl.load(rois + k * 5).to(tl.int64)
    x0 = tl.load(rois + k * 5 + 1).to(REAL) * scale - OFFSET
    y0 = tl.load(rois + k * 5 + 2).to(REAL) * scale - OFFSET
    x1 = tl.load(rois + k * 5 + 3).to(REAL) * scale - OFFSET
    y1 = tl.load(rois + k * 5 + 4).to(REAL) * scale - OFFSET
    side_y, side_x = y1 - y0, x1 - x0
    if MIN_SIDE > 0:
        side_y, side_x = tl.maximum(side_y, MIN_SIDE), tl.maximum(side_x, MIN_SIDE)
    bin_y, samples_y, visits_y = bin_samples(side_y, 2 * height + 8, ROWS, RATIO)
    bin_x, samples_x, visits_x = bin_samples(side_x, 2 * width + 8, COLUMNS, RATIO)
    mine = (tl.load(levels + k) == level) & (image >= 0) & (image < image_count)
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
        tl.store(place, mean.to(pooled.dtype.element_ty), mask=exists)


def launch(
    data: Tensor,
    pooled: Tensor,
    rois: Tensor,
    levels: Tensor,
    level: int,
    scale: float,
    ratio: int,
    aligned: bool,
    backward: bool,
) -> None:
    """Visit the samples of the boxes of one level; `data` and `pooled` are (., C, ., .)."""
    count, channels, height, width = pooled.shape
    if pooled.numel() == 0 or data.numel() == 0:
        return
    grid = (count, triton.cdiv(channels * height * width, BLOCK))
    with device_of(data):
        visit_samples[grid](
            data, pooled, rois, levels, level, data.shape[0], channels, data.shape[2],
            data.shape[3], *data.stride(), scale,
            OFFSET=0.5 if aligned else 0.0, MIN_SIDE=0.0 if aligned else 1.0,
            RATIO=max(ratio, 0), ROWS=height, COLUMNS=width, LAST=is_channels_last(pooled),
            REAL=real_type(data.dtype), BACKWARD=backward, BLOCK=BLOCK, **EXACT,
        )  # fmt: skip


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
    pooled = torch.zeros(
        (rois.shape[0], first.shape[1], height, width), dtype=first.dtype, device=first.device
    ).contiguous(memory_format=format_of(is_channels_last(first)))
    rois = rois.detach().contiguous()
    for level, (feature, scale) in enumerate(zip(features, spatial_scales)):
        feature = feature.detach()
        launch(feature, pooled, rois, levels, level, scale, sampling_ratio, aligned, False)
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
    if torch.are_deterministic_algorithms_enabled():
        return multilevel_roi_align_backward_reference(
            grad, rois, levels, sizes, spatial_scales, sampling_ratio, aligned, channels_last
        )
    grad = grad if is_channels_last(grad) else grad.contiguous()
    rois = rois.detach().contiguous()
    gradients = []
    for level, scale in enumerate(spatial_scales):
        shape = (sizes[0], grad.shape[1], sizes[1 + 2 * level], sizes[2 + 2 * level])
        gradient = torch.zeros(shape, dtype=compute_dtype(grad.dtype), device=grad.device)
        gradient = gradient.contiguous(memory_format=format_of(channels_last[level]))
        launch(gradient, grad, rois, levels, level, scale, sampling_ratio, aligned, True)
        gradients.append(gradient.to(grad.dtype))
    return gradients


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
