"""Deformable convolution (https://arxiv.org/abs/1703.06211 and, modulated, 1811.11168).

Every tap of the kernel reads the input at its usual place plus an offset, bilinearly, with
zeros outside of the map; the rest is an ordinary convolution of the values that were read.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype

__all__ = ["deform_conv_reference", "deformed_columns", "tap_positions"]


def tap_positions(
    offset: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Where every tap reads, in cells of the input.

    Args:
        offset: (N, G * 2 * P, h, w): for each offset group and tap the vertical, then the
            horizontal displacement.
        kernel: (rows, columns), P = rows * columns taps.

    Returns:
        y and x, each (N, G, P, h, w).
    """
    taps = kernel[0] * kernel[1]
    height, width = offset.shape[2:]
    groups = offset.shape[1] // (2 * taps)
    moved = offset.reshape(offset.shape[0], groups, taps, 2, height, width)  # (N, G, P, 2, h, w)
    positions = []
    for axis, length in ((0, height), (1, width)):
        steps = (
            torch.arange(kernel[axis], device=offset.device, dtype=offset.dtype) * dilation[axis]
        )
        base = torch.arange(length, device=offset.device, dtype=offset.dtype) * stride[axis]
        positions.append((steps - padding[axis], base))
    (row, y), (column, x) = positions
    row = row.repeat_interleave(kernel[1])[:, None, None]  # (P, 1, 1)
    column = column.repeat(kernel[0])[:, None, None]
    return moved[:, :, :, 0] + (row + y[:, None]), moved[:, :, :, 1] + (column + x[None, :])


def deformed_columns(input: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(N, C, P, h, w) bilinear values of `input` (N, C, H, W) at `y` and `x` (N, G, P, h, w)."""
    images, channels, height, width = input.shape
    groups = y.shape[1]
    cells = input.reshape(images, groups, channels // groups, height * width)
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)
    top, left = y.detach().floor(), x.detach().floor()
    down, across = y - top, x - left
    total = torch.zeros((), dtype=input.dtype, device=input.device)
    for row, column, weight in (
        (top, left, (1 - down) * (1 - across)),
        (top, left + 1, (1 - down) * across),
        (top + 1, left, down * (1 - across)),
        (top + 1, left + 1, down * across),
    ):
        exists = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index = torch.where(exists, row * width + column, 0).to(torch.int64)
        index = index.flatten(2)[:, :, None, :].expand(-1, -1, cells.shape[2], -1)
        values = cells.gather(3, index)  # (N, G, C / G, P * h * w)
        total = total + values * torch.where(exists, weight, 0).flatten(2)[:, :, None, :]
    return total.reshape(images, channels, *y.shape[2:])


def deform_conv_reference(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    """(N, C_out, h, w); see :func:`detectron2.ops.deform_conv`."""
    dtype = compute_dtype(input.dtype)
    images, (height, width) = input.shape[0], offset.shape[2:]
    y, x = tap_positions(offset.to(dtype), weight.shape[2:], stride, padding, dilation)
    columns = deformed_columns(input.to(dtype), y, x)  # (N, C, P, h, w)
    if mask is not None:
        gate = mask.to(dtype).reshape(images, offset_groups, 1, columns.shape[2], height, width)
        channels = columns.shape[1] // offset_groups
        grouped = columns.reshape(images, offset_groups, channels, *columns.shape[2:])
        columns = (grouped * gate).reshape(columns.shape)
    columns = columns.reshape(images, groups, weight[0].numel(), height * width)
    kernels = weight.to(dtype).reshape(groups, weight.shape[0] // groups, weight[0].numel())
    output = torch.matmul(kernels, columns).reshape(images, weight.shape[0], height, width)
    if bias is not None:
        output = output + bias.to(dtype)[:, None, None]
    return output.to(input.dtype)
