"""Deformable convolution on GPU: kernels read the taps, a matrix product does the rest.

All maps are channels-last here, so that the channels of a cell are one contiguous run. The
output positions of all images are worked through in pieces, each of which needs its columns
(groups, positions, P * C / groups) in memory.

Budget, per output position: 4 P C values read, mostly from cache, P C written and read once by
the product. The gradient reads the columns' gradient once, and adds 4 P C values atomically, in
no fixed order: with `torch.use_deterministic_algorithms` the reference runs instead.

Not measured yet: it has run in Triton's interpreter, and compiles for NVIDIA and AMD.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.deform_conv.reference import deform_conv_backward_reference
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.launching import EXACT, device_of, real_type

__all__ = ["deform_conv", "deform_conv_backward"]

VALUES_AT_ONCE = 1 << 27  # of columns: 512 MB in float32
# With four warps the gradient does not find room in registers.
PLACES, CHANNELS, WARPS = 32, 32, 8

SIZES = [
    "first", "count", "height", "width", "out_columns", "places",
    "stride_y", "stride_x", "pad_y", "pad_x", "dilation_y", "dilation_x",
]  # fmt: skip


@triton.jit
def tap_positions(
    offset, mask, first, lane, exists, group, tap, columns, places,
    stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
    OFFSET_GROUPS: tl.constexpr, TAPS: tl.constexpr, KERNEL_COLUMNS: tl.constexpr,
    MASK: tl.constexpr, REAL: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Where a tap reads for output positions, in cells, and the factor of what it reads.

    Args:
        offset: (N, G, P, 2, h * w).
        mask: (N, G, P, h * w), if MASK.
        first: number of the first of these output positions, counted over all images.
        lane: what to add to it.
        columns, places: of the output.

    Returns:
        y, x and factor; the image of each position; and its places in `offset` and `mask`.
    """
    # One division of 64 bits for the block; those of 32 are several times as fast.
    first_image = first // places
    from_there = (first - first_image * places).to(tl.int32) + lane
    image, place = first_image + from_there // places, from_there % places
    base_y = (tap // KERNEL_COLUMNS) * dilation_y - pad_y + (place // columns) * stride_y
    base_x = (tap % KERNEL_COLUMNS) * dilation_x - pad_x + (place % columns) * stride_x
    in_mask = ((image * OFFSET_GROUPS + group) * TAPS + tap) * places + place
    in_offset = 2 * in_mask - place  # two numbers per tap instead of one
    y = tl.load(offset + in_offset, mask=exists, other=0.0).to(REAL) + base_y.to(REAL)
    x = tl.load(offset + in_offset + places, mask=exists, other=0.0).to(REAL) + base_x.to(REAL)
    gate = tl.full(lane.shape, 1, REAL)
    if MASK:
        gate = tl.load(mask + in_mask, mask=exists, other=0.0).to(REAL)
    return y, x, gate, image, in_offset, in_mask


@triton.jit
def cell_of(first, row, column, inside, height, width):  # type: ignore[no-untyped-def]
    """Index of a cell among the cells of all images, and if it is on the map."""
    exists = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return first + row.to(tl.int64) * width + column, exists


@triton.jit
def corners(y, x, image, exists, height, width):  # type: ignore[no-untyped-def]
    """The four cells around each position, if they are on the map, and how far into them."""
    # False for NaN, too.
    inside = exists & (y > -1.0) & (y < height) & (x > -1.0) & (x < width)
    y, x = tl.where(inside, y, 0.0), tl.where(inside, x, 0.0)
    top, left = tl.floor(y), tl.floor(x)
    down, across = y - top, x - left
    row, column = top.to(tl.int32), left.to(tl.int32)
    first = image * height * width
    a, has_a = cell_of(first, row, column, inside, height, width)
    b, has_b = cell_of(first, row, column + 1, inside, height, width)
    c, has_c = cell_of(first, row + 1, column, inside, height, width)
    d, has_d = cell_of(first, row + 1, column + 1, inside, height, width)
    return a, b, c, d, has_a, has_b, has_c, has_d, down, across


@triton.jit
def column_index(channel, row, tap, rows, channels, GROUPS: tl.constexpr, TAPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where (row, channel) is in columns (GROUPS, rows, TAPS, channels / GROUPS) of a tap."""
    per_group = channels // GROUPS
    part, within = channel // per_group, channel % per_group
    return ((part.to(tl.int64) * rows + row) * TAPS + tap) * per_group + within


@triton.jit(do_not_specialize=SIZES)
def gather_taps(
    cells, offset, mask, columns, first, count, channels, height, width, out_columns, places,
    stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
    GROUPS: tl.constexpr, OFFSET_GROUPS: tl.constexpr, TAPS: tl.constexpr,
    KERNEL_COLUMNS: tl.constexpr, MASK: tl.constexpr, REAL: tl.constexpr,
    PLACES: tl.constexpr, CHANNELS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Fill the columns of the output positions [first, first + count)."""
    start = tl.program_id(0).to(tl.int64) * PLACES
    row = start + tl.arange(0, PLACES)
    group, tap = tl.program_id(1) // TAPS, tl.program_id(1) % TAPS
    exists = row < count
    y, x, gate, image, in_offset, in_mask = tap_positions(
        offset, mask, first + start, tl.arange(0, PLACES), exists, group, tap, out_columns, places,
        stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
        OFFSET_GROUPS, TAPS, KERNEL_COLUMNS, MASK, REAL,
    )  # fmt: skip
    a, b, c, d, has_a, has_b, has_c, has_d, down, across = corners(
        y, x, image, exists, height, width
    )
    w_a, w_b = gate * ((1 - down) * (1 - across)), gate * ((1 - down) * across)
    w_c, w_d = gate * (down * (1 - across)), gate * (down * across)
    share = channels // OFFSET_GROUPS
    for start in range(0, share, CHANNELS):
        within = start + tl.arange(0, CHANNELS)[None, :]
        channel = group * share + within
        here = within < share
        f_a = tl.load(cells + a[:, None] * channels + channel, has_a[:, None] & here, other=0.0)
        f_b = tl.load(cells + b[:, None] * channels + channel, has_b[:, None] & here, other=0.0)
        f_c = tl.load(cells + c[:, None] * channels + channel, has_c[:, None] & here, other=0.0)
        f_d = tl.load(cells + d[:, None] * channels + channel, has_d[:, None] & here, other=0.0)
        value = w_a[:, None] * f_a.to(REAL) + w_b[:, None] * f_b.to(REAL)
        value += w_c[:, None] * f_c.to(REAL) + w_d[:, None] * f_d.to(REAL)
        place = column_index(channel, row[:, None], tap, count, channels, GROUPS, TAPS)
        value = value.to(columns.dtype.element_ty)
        tl.store(columns + place, value, mask=exists[:, None] & here)


@triton.jit
def pull_and_spread(
    cells, of_cells, cell, exists, channel, here, channels, grad, weight, REAL: tl.constexpr
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Add weight * grad to a cell of each position; (PLACES,) sum of grad times the values."""
    index = cell[:, None] * channels + channel
    valid = exists[:, None] & here
    value = tl.load(cells + index, mask=valid, other=0.0).to(REAL)
    tl.atomic_add(of_cells + index, weight[:, None] * grad, mask=valid)
    return tl.sum(value * grad, axis=1)


@triton.jit(do_not_specialize=SIZES)
def give_back_taps(
    cells, offset, mask, columns, of_cells, of_offset, of_mask, first, count, channels, height,
    width, out_columns, places, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
    GROUPS: tl.constexpr, OFFSET_GROUPS: tl.constexpr, TAPS: tl.constexpr,
    KERNEL_COLUMNS: tl.constexpr, MASK: tl.constexpr, REAL: tl.constexpr,
    PLACES: tl.constexpr, CHANNELS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Gradients in cells, offset and mask from that in the columns; see `gather_taps`."""
    start = tl.program_id(0).to(tl.int64) * PLACES
    row = start + tl.arange(0, PLACES)
    group, tap = tl.program_id(1) // TAPS, tl.program_id(1) % TAPS
    exists = row < count
    y, x, gate, image, in_offset, in_mask = tap_positions(
        offset, mask, first + start, tl.arange(0, PLACES), exists, group, tap, out_columns, places,
        stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
        OFFSET_GROUPS, TAPS, KERNEL_COLUMNS, MASK, REAL,
    )  # fmt: skip
    a, b, c, d, has_a, has_b, has_c, has_d, down, across = corners(
        y, x, image, exists, height, width
    )
    w_a, w_b = (1 - down) * (1 - across), (1 - down) * across
    w_c, w_d = down * (1 - across), down * across
    pull_a, pull_b = tl.zeros((PLACES,), REAL), tl.zeros((PLACES,), REAL)
    pull_c, pull_d = tl.zeros((PLACES,), REAL), tl.zeros((PLACES,), REAL)
    share = channels // OFFSET_GROUPS
    for start in range(0, share, CHANNELS):
        within = start + tl.arange(0, CHANNELS)[None, :]
        channel = group * share + within
        here = within < share
        place = column_index(channel, row[:, None], tap, count, channels, GROUPS, TAPS)
        grad = tl.load(columns + place, mask=exists[:, None] & here, other=0.0).to(REAL)
        pull_a += pull_and_spread(
            cells, of_cells, a, has_a, channel, here, channels, grad, gate * w_a, REAL
        )
        pull_b += pull_and_spread(
            cells, of_cells, b, has_b, channel, here, channels, grad, gate * w_b, REAL
        )
        pull_c += pull_and_spread(
            cells, of_cells, c, has_c, channel, here, channels, grad, gate * w_c, REAL
        )
        pull_d += pull_and_spread(
            cells, of_cells, d, has_d, channel, here, channels, grad, gate * w_d, REAL
        )
    of_y = (pull_c - pull_a) * (1 - across) + (pull_d - pull_b) * across
    of_x = (pull_b - pull_a) * (1 - down) + (pull_d - pull_c) * down
    tl.store(of_offset + in_offset, gate * of_y, mask=exists)
    tl.store(of_offset + in_offset + places, gate * of_x, mask=exists)
    if MASK:
        read = pull_a * w_a + pull_b * w_b + pull_c * w_c + pull_d * w_d
        tl.store(of_mask + in_mask, read, mask=exists)


class Problem:
    """The tensors of one call, channels-last, and the pieces of output positions."""

    def __init__(
        self,
        input: Tensor,
        offset: Tensor,
        weight: Tensor,
        mask: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        offset_groups: int,
    ) -> None:
        images, self.channels, *self.size = input.shape
        self.dtype, self.groups, self.offset_groups = input.dtype, groups, offset_groups
        self.places = offset.shape[2] * offset.shape[3]
        self.rows = images * self.places
        self.kernel = weight.shape[2:]
        self.taps = weight.shape[2] * weight.shape[3]
        self.cells = input.detach().permute(0, 2, 3, 1).contiguous()
        self.offset = offset.detach().contiguous()
        self.mask = None if mask is None else mask.detach().contiguous()
        # (groups, P * C / groups, C_out / groups)
        kernels = weight.detach().to(self.dtype).unflatten(0, (groups, -1))
        self.weight = kernels.permute(0, 3, 4, 2, 1).flatten(1, 3)
        self.geometry = (offset.shape[3], self.places, *stride, *padding, *dilation)

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Numbers of output positions, and memory for their columns."""
        step = min(max(VALUES_AT_ONCE // max(self.taps * self.channels, 1), 1), self.rows)
        for first in range(0, self.rows, max(step, 1)):
            piece = slice(first, min(self.rows, first + step))
            yield (
                piece,
                self.cells.new_empty(
                    self.groups,
                    piece.stop - piece.start,
                    self.taps * self.channels // self.groups,
                ),
            )

    def launch(self, kernel: Any, piece: slice, columns: Tensor, *gradients: Tensor) -> None:
        count = piece.stop - piece.start
        # Twice as large, numbers of float64 do not find room in 255 registers.
        places = PLACES // 2 if self.dtype == torch.float64 else PLACES
        grid = (triton.cdiv(count, places), self.offset_groups * self.taps)
        with device_of(self.cells):
            kernel[grid](
                self.cells, self.offset, self.offset if self.mask is None else self.mask, columns,
                *gradients, piece.start, count, self.channels, *self.size, *self.geometry,
                GROUPS=self.groups, OFFSET_GROUPS=self.offset_groups, TAPS=self.taps,
                KERNEL_COLUMNS=self.kernel[1], MASK=self.mask is not None,
                REAL=real_type(self.dtype), PLACES=places, CHANNELS=CHANNELS,
                num_warps=WARPS, **EXACT,
            )  # fmt: skip

    def read(self, piece: slice, columns: Tensor) -> Tensor:
        """The columns, filled."""
        self.launch(gather_taps, piece, columns)
        return columns


def deform_conv(
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
    """The Triton forward of :func:`detectron2.ops.deform_conv`."""
    problem = Problem(input, offset, weight, mask, stride, padding, dilation, groups, offset_groups)
    output = problem.cells.new_empty(problem.rows, groups, len(weight) // groups)
    for piece, columns in problem.pieces() if output.numel() else ():
        product = torch.bmm(problem.read(piece, columns), problem.weight)
        output[piece].copy_(product.transpose(0, 1))
    if bias is not None:
        output += bias.detach().to(output.dtype).view(output.shape[1:])
    result = output.view(len(input), *offset.shape[2:], len(weight)).permute(0, 3, 1, 2)
    return result.contiguous(memory_format=format_of(is_channels_last(input)))


def deform_conv_backward(
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
    """The Triton backward: gradients in input, offset, weight and mask (empty without one)."""
    arguments = (stride, padding, dilation, groups, offset_groups)
    if torch.are_deterministic_algorithms_enabled():
        return deform_conv_backward_reference(grad, input, offset, weight, mask, *arguments)
    problem = Problem(input, offset, weight, mask, *arguments)
    real = compute_dtype(input.dtype)
    of_cells = torch.zeros_like(problem.cells, dtype=real)
    of_offset = torch.zeros_like(problem.offset, dtype=real)
    of_mask = problem.offset.new_zeros(0 if mask is None else mask.shape, dtype=real)
    of_weight = torch.zeros_like(problem.weight, dtype=real)
    grads = grad.detach().permute(0, 2, 3, 1).reshape(problem.rows, groups, len(weight) // groups)
    for piece, columns in problem.pieces() if grad.numel() else ():
        rows = grads[piece].transpose(0, 1)  # (groups, positions, C_out / groups)
        of_weight += torch.bmm(problem.read(piece, columns).transpose(1, 2), rows)
        torch.bmm(rows, problem.weight.transpose(1, 2), out=columns)
        problem.launch(give_back_taps, piece, columns, of_cells, of_offset, of_mask)
    kernels = of_weight.view(groups, *problem.kernel, weight.shape[1], len(weight) // groups)
    of_input = of_cells.permute(0, 3, 1, 2).to(input.dtype)
    return (
        of_input.contiguous(memory_format=format_of(is_channels_last(input))),
        of_offset.to(offset.dtype),
        kernels.permute(0, 4, 3, 1, 2).reshape(weight.shape).to(weight.dtype).contiguous(),
        of_mask.to(offset.dtype if mask is None else mask.dtype),
    )
