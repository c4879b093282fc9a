"""Winograd's convolution on CPU: transforms by Numba, the products by PyTorch's BLAS.

Budget for C = K = 256: 2.25 of 9 multiplications, and every cell is read once, written 2.25
times, read 2.25 times and written once, within a chunk that stays in the caches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detectron2.ops.compiled import as_array
from detectron2.ops.threads import parallel_for
from detectron2.ops.winograd_conv.kernels import (
    transform_gradient,
    transform_input,
    transform_output,
)

__all__ = ["warm_up", "winograd_conv", "winograd_weight_gradient"]

# What one chunk of tiles holds, in squares and products: more leaves the caches, less reads the
# weight too often.
CHUNK_BYTES = 9_500_000

# But the weight is read anew for each chunk, 36 times C * K numbers: 2048 channels on 50x68 cells
# take 509 ms of one thread in chunks of 256 tiles, 1672 in chunks of 16, 1763 directly.
FEWEST_TILES = 256

# The sum of all chunks is read and written with each: fewer, larger ones.
GRADIENT_CHUNK_BYTES = 19_000_000


def winograd_conv(input: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """See :func:`detectron2.ops.winograd_conv.winograd_conv`."""
    source = as_array(input.permute(0, 2, 3, 1))
    images, height, width, channels = source.shape
    output = input.new_empty(images, height, width, weight.shape[2])
    target = output.numpy()
    tiles = images * -(-height // 4) * -(-width // 4)
    bytes_per_tile = 36 * (channels + weight.shape[2]) * source.itemsize
    chunk = min(tiles, max(FEWEST_TILES, CHUNK_BYTES // bytes_per_tile))
    # Two buffers for all chunks: fresh memory costs as much as the transform.
    squares = input.new_empty(36 * chunk * channels)
    products = input.new_empty(36 * chunk * weight.shape[2])
    offset = as_array(bias, input.dtype)
    lowest = target.dtype.type(0 if relu else -math.inf)
    for first in range(0, tiles, chunk) if tiles else ():
        count = min(chunk, tiles - first)
        of_input = squares[: 36 * count * channels].view(36, count, channels)
        of_output = products[: 36 * count * weight.shape[2]].view(36, count, -1)
        _transform(transform_input, count, source, of_input.numpy(), first)
        torch.bmm(of_input, weight, out=of_output)
        _transform(transform_output, count, of_output.numpy(), offset, lowest, target, first)
    return output.permute(0, 3, 1, 2)


def winograd_weight_gradient(input: Tensor, gradient: Tensor) -> Tensor:
    """See :func:`detectron2.ops.winograd_conv.winograd_weight_gradient`."""
    source = as_array(input.permute(0, 2, 3, 1))
    change = as_array(gradient.permute(0, 2, 3, 1), input.dtype)
    images, height, width, channels = source.shape
    outputs = change.shape[3]
    tiles = images * -(-height // 4) * -(-width // 4)
    bytes_per_tile = 36 * (channels + outputs) * source.itemsize
    chunk = min(tiles, max(FEWEST_TILES, GRADIENT_CHUNK_BYTES // bytes_per_tile))
    of_input = input.new_empty(36 * chunk * channels)
    of_output = input.new_empty(36 * chunk * outputs)
    total = input.new_zeros(36, channels, outputs)
    for first in range(0, tiles, chunk) if tiles else ():
        count = min(chunk, tiles - first)
        squares = of_input[: 36 * count * channels].view(36, count, channels)
        changes = of_output[: 36 * count * outputs].view(36, count, outputs)
        _transform(transform_input, count, source, squares.numpy(), first)
        _transform(transform_gradient, count, change, changes.numpy(), first)
        total.baddbmm_(squares.transpose(1, 2), changes)
    return total


def _transform(kernel, count, *arguments) -> None:  # type: ignore[no-untyped-def]
    # Four blocks, for two threads: the last of them hides the delay of the second thread.
    parallel_for(lambda start, stop: kernel(*arguments, start, stop), count, max(1, -(-count // 4)))


def warm_up() -> None:
    """Compile the kernels, or load them from the on-disk cache."""
    winograd_conv(torch.zeros(1, 1, 5, 5), torch.zeros(36, 1, 1), torch.zeros(1), True)
