"""ROIAlign of rotated boxes on GPU: one program per box and block of output elements.

As in `roi_align`, whose budget this has: per output element 16 loads at 2 x 2 samples, mostly
from cache, and one store; the gradient adds the same 16 values atomically, in no fixed order.
With `torch.use_deterministic_algorithms` the reference computes the gradient instead.

Not measured yet: it has run in Triton's interpreter, and compiles for NVIDIA and AMD.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.launching import EXACT, device_of, divide, real_type
from detectron2.ops.roi_align_rotated.reference import (
    roi_align_rotated_backward_reference,
    rotated_boxes_in_cells,
)
from detectron2.ops.sampling import (
    bin_samples,
    first_visited,
    read_corners,
    spread_to_corners,
)

__all__ = ["roi_align_rotated", "roi_align_rotated_backward"]

BLOCK = 256


@triton.jit(
    do_not_specialize=[
        "image_count", "channels", "height", "width",
        "stride_image", "stride_channel", "stride_row", "stride_column",
    ]
)  # fmt: skip
def visit_rotated_samples(
    data, pooled, images, boxes, image_count, channels, height, width,
    stride_image, stride_channel, stride_row, stride_column,
    RATIO: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr,
    REAL: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Forward: pooled = mean of samples of data. Backward: data += share of pooled.

    `data` has any strides; `pooled` is (K, ROWS * COLUMNS, C) if LAST, else the transpose.
    """
    blocks = tl.cdiv(channels * ROWS * COLUMNS, BLOCK)  # of a box
    k = (tl.program_id(0) // blocks).to(tl.int64)
    element = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    if LAST:
        channel, cell = element % channels, element // channels
    else:
        channel, cell = element // (ROWS * COLUMNS), element % (ROWS * COLUMNS)

    image = tl.load(images + k)
    center_y, center_x = tl.load(boxes + k * 6), tl.load(boxes + k * 6 + 1)
    side_y, side_x = tl.load(boxes + k * 6 + 2), tl.load(boxes + k * 6 + 3)
    cos, sin = tl.load(boxes + k * 6 + 4), tl.load(boxes + k * 6 + 5)

    # In the frame of the box the map lies within this circle, with room for rounding.
    half_y, half_x = height.to(REAL) / 2, width.to(REAL) / 2
    radius = tl.sqrt((half_y + 2) * (half_y + 2) + (half_x + 2) * (half_x + 2))
    map_y = (half_y - center_y) * cos + (half_x - center_x) * sin - radius
    map_x = (half_x - center_x) * cos - (half_y - center_y) * sin - radius
    most = (4 * radius).to(tl.int32) + 8
    bin_y, samples_y, visits_y = bin_samples(side_y, most, ROWS, RATIO)
    bin_x, samples_x, visits_x = bin_samples(side_x, most, COLUMNS, RATIO)
    mine = (image >= 0) & (image < image_count)
    visits_y = tl.where(mine, visits_y, 0)
    exists = element < tl.where(mine, channels * ROWS * COLUMNS, 0)

    start_y = -side_y / 2 + (cell // COLUMNS).to(REAL) * bin_y
    start_x = -side_x / 2 + (cell % COLUMNS).to(REAL) * bin_x
    first_y = first_visited(start_y, map_y, bin_y, samples_y, visits_y)
    first_x = first_visited(start_x, map_x, bin_x, samples_x, visits_x)
    count_y, count_x = tl.maximum(samples_y, 1).to(REAL), tl.maximum(samples_x, 1).to(REAL)
    here = data + image * stride_image + channel.to(tl.int64) * stride_channel
    place = pooled + k * (channels * ROWS * COLUMNS) + element
    total = tl.zeros((BLOCK,), REAL)
    if BACKWARD:
        total = tl.load(place, mask=exists, other=0.0).to(REAL) / (count_y * count_x)
    for i in range(visits_y):
        down = start_y + divide((first_y + i + 0.5) * bin_y, count_y + first_y * 0)
        for j in range(visits_x):
            across = start_x + divide((first_x + j + 0.5) * bin_x, count_x + first_x * 0)
            y = down * cos - across * sin + center_y
            x = down * sin + across * cos + center_x
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
    data: Tensor, pooled: Tensor, rois: Tensor, scale: float, ratio: int, backward: bool
) -> None:
    """Visit the samples of all boxes; `data` and `pooled` are (., C, ., .)."""
    count, channels, height, width = pooled.shape
    if pooled.numel() == 0 or data.numel() == 0:
        return
    rois = rois.detach()
    images = rois[:, 0].to(torch.int64).contiguous()
    boxes = rotated_boxes_in_cells(rois, compute_dtype(data.dtype), scale)
    grid = (count * triton.cdiv(channels * height * width, BLOCK),)
    with device_of(data):
        visit_rotated_samples[grid](
            data, pooled, images, boxes, data.shape[0], channels, data.shape[2], data.shape[3],
            *data.stride(),
            RATIO=max(ratio, 0), ROWS=height, COLUMNS=width, LAST=is_channels_last(pooled),
            REAL=real_type(data.dtype), BACKWARD=backward, BLOCK=BLOCK, **EXACT,
        )  # fmt: skip


def roi_align_rotated(
    input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """The Triton forward of :func:`detectron2.ops.roi_align_rotated`."""
    shape = (rois.shape[0], input.shape[1], height, width)
    pooled = torch.zeros(shape, dtype=input.dtype, device=input.device)
    pooled = pooled.contiguous(memory_format=format_of(is_channels_last(input)))
    launch(input.detach(), pooled, rois, spatial_scale, sampling_ratio, False)
    return pooled


def roi_align_rotated_backward(
    grad: Tensor,
    rois: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    channels_last: bool,
) -> Tensor:
    """The Triton backward of :func:`detectron2.ops.roi_align_rotated`."""
    if torch.are_deterministic_algorithms_enabled():
        return roi_align_rotated_backward_reference(
            grad, rois, input_shape, spatial_scale, sampling_ratio, channels_last
        )
    grad = grad if is_channels_last(grad) else grad.contiguous()
    gradient = torch.zeros(
        tuple(input_shape), dtype=compute_dtype(grad.dtype), device=grad.device
    ).contiguous(memory_format=format_of(channels_last))
    launch(gradient, grad, rois, spatial_scale, sampling_ratio, True)
    return gradient.to(grad.dtype)
