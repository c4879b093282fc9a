"""Deformable convolution (https://arxiv.org/abs/1703.06211 and, modulated, 1811.11168).

Every tap of the kernel reads the input at its usual place plus an offset, bilinearly, with
zeros outside of the map; the rest is an ordinary convolution of the values that were read.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.formats import format_of, is_channels_last

__all__ = ["deform_conv_backward_reference", "deform_conv_reference"]


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


class Corner(NamedTuple):
    """One of the four cells around every position, flattened to (N, G, P * h * w)."""

    cell: Tensor  # int64 index into H * W, 0 where there is no such cell
    weight: Tensor  # 0 where there is no such cell
    slope_y: Tensor  # derivative of the weight in y
    slope_x: Tensor


def corners(y: Tensor, x: Tensor, height: int, width: int) -> list[Corner]:
    """The four cells around positions (N, G, P, h, w); cells outside of the map are zeros."""
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)
    top, left = y.detach().floor(), x.detach().floor()
    down, across = y - top, x - left
    result = []
    for bottom, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = top + bottom, left + right
        along_y, along_x = down if bottom else 1 - down, across if right else 1 - across
        exists = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        parts = (
            torch.where(exists, row * width + column, 0).to(torch.int64),
            torch.where(exists, along_y * along_x, 0),
            torch.where(exists, along_x if bottom else -along_x, 0),
            torch.where(exists, along_y if right else -along_y, 0),
        )
        result.append(Corner(*(part.flatten(2) for part in parts)))
    return result


def grouped_cells(input: Tensor, offset_groups: int) -> Tensor:
    """(N, G, C / G, H * W) view of (N, C, H, W)."""
    images, channels, height, width = input.shape
    return input.reshape(images, offset_groups, channels // offset_groups, height * width)


def read(cells: Tensor, corner: Corner) -> Tensor:
    """(N, G, C / G, P * h * w) values of the cells that a corner names."""
    return cells.gather(3, corner.cell[:, :, None, :].expand(-1, -1, cells.shape[2], -1))


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
    cells = grouped_cells(input.to(dtype), offset_groups)
    columns = torch.zeros((), dtype=dtype, device=input.device)
    for corner in corners(y, x, *input.shape[2:]):
        columns = columns + read(cells, corner) * corner.weight[:, :, None, :]
    if mask is not None:
        columns = columns * mask.to(dtype).reshape(images, offset_groups, 1, columns.shape[3])
    columns = columns.reshape(images, groups, weight[0].numel(), height * width)
    kernels = weight.to(dtype).reshape(groups, weight.shape[0] // groups, weight[0].numel())
    output = torch.matmul(kernels, columns).reshape(images, weight.shape[0], height, width)
    if bias is not None:
        output = output + bias.to(dtype)[:, None, None]
    return output.to(input.dtype).contiguous(memory_format=format_of(is_channels_last(input)))


def deform_conv_backward_reference(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients in input, offset, weight and mask (empty without a mask), written out."""
    dtype = compute_dtype(input.dtype)
    images, (height, width) = input.shape[0], offset.shape[2:]
    y, x = tap_positions(offset.to(dtype), weight.shape[2:], stride, padding, dilation)
    cells = grouped_cells(input.to(dtype), offset_groups)
    taps, places = y.shape[2], height * width
    gate = torch.ones_like(y) if mask is None else mask.to(dtype).reshape(y.shape)
    gate = gate.flatten(2)[:, :, None, :]  # (N, G, 1, P * h * w)
    grads = grad.to(dtype).reshape(images, groups, weight.shape[0] // groups, places)
    kernels = weight.to(dtype).reshape(groups, weight.shape[0] // groups, weight[0].numel())
    of_columns = torch.matmul(kernels.transpose(1, 2), grads)
    of_columns = of_columns.reshape(*cells.shape[:3], taps * places)
    columns, of_cells = torch.zeros_like(of_columns), torch.zeros_like(cells)
    of_y, of_x = torch.zeros_like(gate[:, :, 0]), torch.zeros_like(gate[:, :, 0])
    for corner in corners(y, x, *input.shape[2:]):
        values, weights = read(cells, corner), corner.weight[:, :, None, :]
        columns += values * weights
        index = corner.cell[:, :, None, :].expand(values.shape)
        of_cells.scatter_add_(3, index, of_columns * gate * weights)
        pull = (of_columns * gate * values).sum(2)
        of_y += pull * corner.slope_y
        of_x += pull * corner.slope_x
    flat = (columns * gate).reshape(images, groups, weight[0].numel(), places)
    of_weight = torch.matmul(grads, flat.transpose(2, 3)).sum(0)
    shape = (images, offset_groups, taps, places)
    of_offset = torch.stack([of_y.reshape(shape), of_x.reshape(shape)], 3)
    of_mask = offset.new_zeros(0) if mask is None else (of_columns * columns).sum(2)
    last = format_of(is_channels_last(input))
    return (
        of_cells.reshape(input.shape).to(input.dtype).contiguous(memory_format=last),
        of_offset.reshape(offset.shape).to(offset.dtype),
        of_weight.reshape(weight.shape).to(weight.dtype),
        of_mask if mask is None else of_mask.reshape(mask.shape).to(mask.dtype),
    )
