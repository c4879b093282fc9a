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
from detectron2.ops.winograd_conv.kernels import transform_input, transform_output

__all__ = ["warm_up", "winograd_conv"]

# 256 tiles of 256 channels are 9 MB: more leave the caches, fewer read the weight too often.
# 256 x 256 channels on 200 x 272: 133 ms by 256 tiles, 148 by 512, 205 by 4096.
TILES_PER_CHUNK = 256


def winograd_conv(input: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """See :func:`detectron2.ops.winograd_conv.winograd_conv`."""
    source = as_array(input.permute(0, 2, 3, 1))
    images, height, width, channels = source.shape
    output = input.new_empty(images, height, width, weight.shape[2])
    target = output.numpy()
    tiles = images * -(-height // 4) * -(-width // 4)
    # Two buffers for all chunks: fresh memory costs as much as the transform.
    squares = input.new_empty(36 * min(tiles, TILES_PER_CHUNK) * channels)
    products = input.new_empty(36 * min(tiles, TILES_PER_CHUNK) * weight.shape[2])
    offset = as_array(bias, input.dtype)
    lowest = target.dtype.type(0 if relu else -math.inf)
    for first in range(0, tiles, TILES_PER_CHUNK):
        count = min(TILES_PER_CHUNK, tiles - first)
        of_input = squares[: 36 * count * channels].view(36, count, channels)
        of_output = products[: 36 * count * weight.shape[2]].view(36, count, -1)
        _transform(transform_input, count, source, of_input.numpy(), first)
        torch.bmm(of_input, weight, out=of_output)
        _transform(transform_output, count, of_output.numpy(), offset, lowest, target, first)
    return output.permute(0, 3, 1, 2)


def _transform(kernel, count, *arguments) -> None:  # type: ignore[no-untyped-def]
    # Four blocks, for two threads: the last of them hides the delay of the second thread.
    parallel_for(lambda start, stop: kernel(*arguments, start, stop), count, max(1, -(-count // 4)))


def warm_up() -> None:
    """Compile the kernels, or load them from the on-disk cache."""
    winograd_conv(torch.zeros(1, 1, 5, 5), torch.zeros(36, 1, 1), torch.zeros(1), True)
