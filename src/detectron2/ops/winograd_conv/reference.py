"""Winograd's convolution in plain PyTorch: the definition, and the oracle of the tests.

Lavin and Gray, https://arxiv.org/abs/1509.09308, section 4: with ``@`` over the squares of a tile,
``output = A^T ((G g G^T) * (B^T d B)) A`` for every tile d and filter g, where the product is
summed over the input channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "INPUT_TRANSFORM",
    "OUTPUT_TRANSFORM",
    "WEIGHT_TRANSFORM",
    "winograd_conv_reference",
    "winograd_weight_gradient_reference",
]

# B^T, G and A^T of F(4, 3), with the interpolation points 0, 1, -1, 2, -2 and infinity.
INPUT_TRANSFORM = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
WEIGHT_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
OUTPUT_TRANSFORM = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)


def winograd_conv_reference(input: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """See :func:`detectron2.ops.winograd_conv.winograd_conv`."""
    images, _, height, width = input.shape
    rows, columns = -(-height // 4), -(-width // 4)
    squares = _squares_of_input(input)
    products = torch.bmm(squares, weight)  # (36, tiles, K)
    products = products.view(6, 6, images, rows, columns, -1)
    to_cells = input.new_tensor(OUTPUT_TRANSFORM)
    cells = torch.einsum("pi,ijnyxk,qj->nypxqk", to_cells, products, to_cells)

    output = cells.reshape(images, 4 * rows, 4 * columns, -1)[:, :height, :width] + bias
    output = output.clamp(min=0) if relu else output
    return output.contiguous().permute(0, 3, 1, 2)


def _squares_of_input(input: Tensor) -> Tensor:
    """B^T d B of all tiles d of (N, C, H, W): (36, tiles, C)."""
    channels, height, width = input.shape[1:]
    rows, columns = -(-height // 4), -(-width // 4)
    padded = F.pad(input, (1, 4 * columns - width + 1, 1, 4 * rows - height + 1))
    tiles = padded.unfold(2, 6, 4).unfold(3, 6, 4)  # (N, C, rows, columns, 6, 6)
    to_squares = input.new_tensor(INPUT_TRANSFORM)
    squares = torch.einsum("ia,ncyxab,jb->ijnyxc", to_squares, tiles, to_squares)
    return squares.reshape(36, -1, channels)


def winograd_weight_gradient_reference(input: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of a loss for the transformed weight, (36, C, K), which the output is linear in.

    With g the gradient of the cells of a tile it is ``(B^T d B) * (A g A^T)``, summed over tiles.

    Args:
        input: (N, C, H, W).
        gradient: (N, K, H, W), of the loss for the output.
    """
    channels, height, width = gradient.shape[1:]
    padded = F.pad(gradient.to(input.dtype), (0, -width % 4, 0, -height % 4))
    tiles = padded.unfold(2, 4, 4).unfold(3, 4, 4)  # (N, K, rows, columns, 4, 4)
    to_cells = input.new_tensor(OUTPUT_TRANSFORM)
    changes = torch.einsum("pi,nkyxpq,qj->ijnyxk", to_cells, tiles, to_cells)
    return torch.bmm(_squares_of_input(input).mT, changes.reshape(36, -1, channels))
