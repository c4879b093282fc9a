"""Deformable convolution on CPU: `kernels` reads the taps, a matrix product does the rest.

Budget, per output position: 4 P C values read, mostly from cache, P C written and read once by
the product, of 2 P C C_out flops. Measured on two cores (Xeon, AVX-512) at three stages of a
ResNet-50: 3.8 to 6.0 times as fast as torchvision forward, where at the last stage two thirds of
the time are the product that both need, and 10 to 15 times with gradients
(benchmarks/ops/deform_conv.py).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.compiled import as_array
from detectron2.ops.deform_conv.kernels import gather, scatter, slope
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.pooling import channels_per_thread
from detectron2.ops.threads import parallel_for

__all__ = ["deform_conv", "deform_conv_backward", "warm_up"]

Array = NDArray[Any]

VALUES_AT_ONCE = 1 << 21  # of columns: 8 MB in float32
PLACES_PER_CALL = 16


class Problem:
    """The tensors of one call as arrays, and the blocks of output positions to work through."""

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
        self.real = compute_dtype(input.dtype)
        images, self.channels = input.shape[:2]
        self.size = (input.shape[2], input.shape[3])
        self.taps = weight.shape[2] * weight.shape[3]
        self.groups, self.out_channels = groups, weight.shape[0]
        self.out_size = (offset.shape[2], offset.shape[3])
        self.places = offset.shape[2] * offset.shape[3]
        # Channels last, (N, H * W, C) and, below, (groups, C_out / groups, P * C / groups), which
        # is no copy of a weight in channels-last memory.
        cells = input.detach().to(self.real).permute(0, 2, 3, 1)
        self.cells = as_array(cells).reshape(images, self.size[0] * self.size[1], self.channels)
        shape = (images, offset_groups, self.taps)
        self.offset = as_array(offset, self.real).reshape(*shape, 2, self.places)
        no_mask = np.empty((images, 0, 0, 0), self.cells.dtype)
        self.mask = (
            no_mask if mask is None else as_array(mask, self.real).reshape(*shape, self.places)
        )
        share = self.out_channels // groups
        kernels = weight.detach().to(self.real).reshape(groups, share, *weight.shape[1:])
        self.weight = kernels.permute(0, 1, 3, 4, 2).reshape(groups, share, weight[0].numel())
        self.geometry = (
            weight.shape[3],
            self.out_size[1],
            tuple(stride),
            tuple(padding),
            tuple(dilation),
        )
        count = min(self.places, max(64, VALUES_AT_ONCE // (self.taps * self.channels)))
        self.columns = np.empty(
            (groups, count, self.taps, self.channels // groups), cells_type(self.real)
        )

    def blocks(self) -> Iterator[tuple[int, slice, Array]]:
        """Image, output positions, and the array for their columns, of every block."""
        for image in range(len(self.cells)):
            for first in range(0, self.places, self.columns.shape[1]):
                stop = min(self.places, first + self.columns.shape[1])
                yield image, slice(first, stop), self.block_of(self.columns, stop - first)

    def block_of(self, columns: Array, count: int) -> Array:
        """(groups, count, P, C / groups), contiguous, at the beginning of `columns`."""
        shape = (self.groups, count, self.taps, self.channels // self.groups)
        return columns.reshape(-1)[: int(np.prod(shape))].reshape(shape)

    def read(self, image: int, block: slice, columns: Array) -> Tensor:
        """Fill the columns; (groups, positions, P * C / groups)."""
        arguments = self.arguments(image, columns, block)
        parallel_for(
            lambda start, stop: gather(self.cells[image], *arguments, start, stop),
            columns.shape[1],
            PLACES_PER_CALL,
        )
        return torch.from_numpy(columns).flatten(2)

    def arguments(self, image: int, columns: Array, block: slice) -> tuple[Any, ...]:
        return (
            self.size, self.offset[image], self.mask[image], self.geometry, columns, block.start,
        )  # fmt: skip


def cells_type(real: torch.dtype) -> type[np.floating[Any]]:
    return np.float64 if real == torch.float64 else np.float32


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
    """The Numba forward of :func:`detectron2.ops.deform_conv`."""
    problem = Problem(input, offset, weight, mask, stride, padding, dilation, groups, offset_groups)
    images, out_channels = input.shape[0], weight.shape[0]
    output = torch.empty(images, problem.places, out_channels, dtype=problem.real)
    if output.numel():
        weight = problem.weight.transpose(1, 2)
        for image, block, columns in problem.blocks():
            values, rows = problem.read(image, block, columns), output[image, block]
            if groups == 1:
                torch.bmm(values, weight, out=rows[None])
            else:
                rows = rows.view(-1, groups, out_channels // groups)
                rows.copy_(torch.bmm(values, weight).transpose(0, 1))
    if bias is not None:
        output += bias.detach().to(problem.real)
    result = output.view(images, *problem.out_size, out_channels).permute(0, 3, 1, 2)
    return result.to(input.dtype).contiguous(memory_format=format_of(is_channels_last(input)))


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
    """The Numba backward: gradients in input, offset, weight and mask (empty without one)."""
    problem = Problem(input, offset, weight, mask, stride, padding, dilation, groups, offset_groups)
    of_cells = np.zeros_like(problem.cells)
    of_offset, of_mask = np.zeros_like(problem.offset), np.zeros_like(problem.mask)
    of_weight = torch.zeros_like(problem.weight)
    grads = grad.detach().to(problem.real).permute(0, 2, 3, 1)
    grads = grads.reshape(len(grad), problem.places, groups, len(weight) // groups)
    for image, block, columns in problem.blocks() if grad.numel() else ():
        rows = grads[image, block].transpose(0, 1)  # (groups, positions, C_out / groups)
        of_weight += torch.bmm(rows.transpose(1, 2), problem.read(image, block, columns))
        of_columns = torch.bmm(rows, problem.weight).numpy()
        arguments = problem.arguments(image, of_columns.reshape(columns.shape), block)
        give_back(problem, image, arguments, of_cells, of_offset, of_mask)
    kernel = weight.shape[2:]
    of_weight = of_weight.reshape(len(weight), *kernel, weight.shape[1]).permute(0, 3, 1, 2)
    shape = (len(grad), *problem.size, problem.channels)
    of_input = torch.from_numpy(of_cells).view(shape).permute(0, 3, 1, 2)
    return (
        of_input.to(input.dtype).contiguous(memory_format=format_of(is_channels_last(input))),
        torch.from_numpy(of_offset).reshape(offset.shape).to(offset.dtype),
        of_weight.to(weight.dtype).contiguous(),
        offset.new_zeros(0)
        if mask is None
        else torch.from_numpy(of_mask).reshape(mask.shape).to(mask.dtype),
    )


def give_back(
    problem: Problem,
    image: int,
    arguments: tuple[Any, ...],
    of_cells: Array,
    of_offset: Array,
    of_mask: Array,
) -> None:
    """Spread the gradient of one block of columns to the cells, offsets and mask of an image."""
    *shape, columns, first = arguments
    cells, offsets, masks = problem.cells[image], of_offset[image], of_mask[image]
    parallel_for(
        lambda start, stop: slope(cells, *shape, columns, offsets, masks, first, start, stop),
        columns.shape[1],
        PLACES_PER_CALL,
    )
    # Taps of different positions read the same cells: threads share channels, not positions.
    parallel_for(
        lambda start, stop: scatter(of_cells[image], *shape, columns, first, start, stop),
        problem.channels,
        channels_per_thread(problem.channels),
    )


def warm_up() -> None:
    """Compile for float32, forward and backward."""
    input, weight = torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 1, 1)
    offset, pair = torch.zeros(1, 2, 4, 4), (1, 1)
    arguments = (pair, (0, 0), pair, 1, 1)
    output = deform_conv(input, offset, weight, None, None, *arguments)
    deform_conv_backward(output, input, offset, weight, None, *arguments)
