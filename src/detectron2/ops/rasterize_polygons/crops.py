"""Filling polygons without the empty rest of the image: only the rows and columns with pixels.

Objects are drawn one after the other on one sheet of the size of the image, which is cleared
again where something was drawn, so the pixels are those of the whole masks, bit for bit. Memory
read and written: a few bytes per pixel of the objects' bounding boxes, none for the others.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.compiled import as_array
from detectron2.ops.rasterize_polygons.kernels import fill_crops

__all__ = ["rasterize_polygon_crops_cpu"]


def rasterize_polygon_crops_cpu(
    vertices: Tensor, polygon_sizes: Tensor, owners: Tensor, num_masks: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What `detectron2.ops.rasterize_polygons` fills, without the empty rest of the image.

    Returns:
        The pixels of N windows, one after the other, (sum of h w,) bool, and the windows, (N, 4)
        int64 of (x0, y0, x1, y1), half open. An object without pixels has a window of zeros.
    """
    height, width = size
    windows: NDArray[np.int64] = np.zeros((num_masks, 4), dtype=np.int64)
    if height == 0 or width == 0 or num_masks == 0:
        return torch.zeros(0, dtype=torch.bool), torch.from_numpy(windows)
    begins: NDArray[Any] = np.concatenate(([0], np.cumsum(as_array(polygon_sizes))))
    polygons: NDArray[Any] = np.searchsorted(as_array(owners), np.arange(num_masks + 1))
    pixels = fill_crops(
        np.zeros((height, width), dtype=np.uint8),
        np.zeros((height + 1, width), dtype=np.uint8),
        as_array(vertices),
        begins,
        polygons,
        windows,
    )
    return torch.from_numpy(pixels).view(torch.bool), torch.from_numpy(windows)
