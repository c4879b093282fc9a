"""Filling polygons on CPU; `kernels` has the loops."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.compiled import as_array
from detectron2.ops.rasterize_polygons.crops import rasterize_polygon_crops_cpu
from detectron2.ops.rasterize_polygons.kernels import fill_masks
from detectron2.ops.threads import parallel_for

MASKS_PER_BLOCK = 8


def rasterize_polygons_cpu(
    vertices: Tensor, polygon_sizes: Tensor, owners: Tensor, num_masks: int, height: int, width: int
) -> Tensor:
    """(N, H, W) bool; see :func:`detectron2.ops.rasterize_polygons`."""
    masks = torch.zeros(num_masks, height, width, dtype=torch.bool)
    if masks.numel() == 0:
        return masks
    pixels = masks.view(torch.uint8).numpy()
    corners = as_array(vertices)
    begins: NDArray[Any] = np.concatenate(([0], np.cumsum(as_array(polygon_sizes))))
    polygons: NDArray[Any] = np.searchsorted(as_array(owners), np.arange(num_masks + 1))

    def fill(start: int, stop: int) -> None:
        flips = np.zeros((height + 1, width), dtype=np.uint8)
        fill_masks(pixels[start:stop], flips, corners, begins, polygons[start : stop + 1])

    parallel_for(fill, num_masks, MASKS_PER_BLOCK)
    return masks


def warm_up() -> None:
    """Compile the kernels."""
    triangle = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]], dtype=torch.float64)
    rasterize_polygons_cpu(triangle, torch.tensor([3]), torch.tensor([0]), 1, 4, 4)
    rasterize_polygon_crops_cpu(triangle, torch.tensor([3]), torch.tensor([0]), 1, (4, 4))
