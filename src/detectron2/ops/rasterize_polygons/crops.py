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

from detectron2.ops.compiled import as_array, compiled
from detectron2.ops.rasterize_polygons.cpu import fill_polygon

__all__ = ["rasterize_polygon_crops_cpu"]

# Further than this from its corners, in pixels, no polygon is filled.
REACH = 4


@compiled()
def bounds(corners, height, width):  # type: ignore[no-untyped-def]
    """(left, top, right, bottom) outside of which a polygon has no pixel, within the image."""
    left = min(max(corners[:, 0].min() - REACH, 0.0), width)
    top = min(max(corners[:, 1].min() - REACH, 0.0), height)
    right = min(max(corners[:, 0].max() + REACH, 0.0), width)
    bottom = min(max(corners[:, 1].max() + REACH, 0.0), height)
    return int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))


@compiled()
def tight(sheet, left, top, right, bottom):  # type: ignore[no-untyped-def]
    """The smallest window around the pixels of a part of the sheet; zeros if there are none."""
    x0, y0, x1, y1 = right, bottom, 0, 0
    for row in range(top, bottom):
        for column in range(left, right):
            if sheet[row, column]:
                x0, x1 = min(x0, column), max(x1, column + 1)
                y0, y1 = min(y0, row), max(y1, row + 1)
    return (x0, y0, x1, y1) if x1 > 0 else (0, 0, 0, 0)


@compiled()
def fill_crops(sheet, flips, vertices, begins, polygons, windows):  # type: ignore[no-untyped-def]
    """Fill objects one after the other.

    Args:
        sheet: (H, W) uint8 of zeros; zeros again afterwards.
        flips: (H + 1, W) uint8 of zeros; likewise.
        vertices: (V, 2) float64, corners of all polygons.
        begins: (P + 1,) int64, where the corners of each polygon begin.
        polygons: (N + 1,) int64, where the polygons of each object begin.
        windows: (N, 4) int64, written: x0, y0, x1, y1 of the pixels of each object.

    Returns:
        The pixels inside of the windows, one window after the other, uint8.
    """
    height, width = sheet.shape
    pixels = np.empty(1024, dtype=np.uint8)
    used = 0
    for index in range(windows.shape[0]):
        left, top, right, bottom = width, height, 0, 0
        for polygon in range(polygons[index], polygons[index + 1]):
            corners = vertices[begins[polygon] : begins[polygon + 1]]
            if corners.shape[0] > 0:
                fill_polygon(sheet, flips, corners)
                x0, y0, x1, y1 = bounds(corners, height, width)
                left, top = min(left, x0), min(top, y0)
                right, bottom = max(right, x1), max(bottom, y1)
        x0, y0, x1, y1 = tight(sheet, left, top, right, bottom)
        windows[index] = x0, y0, x1, y1
        needed = used + (x1 - x0) * (y1 - y0)
        if needed > pixels.shape[0]:
            grown = np.empty(2 * needed, dtype=np.uint8)
            grown[:used] = pixels[:used]
            pixels = grown
        for row in range(y0, y1):
            pixels[used : used + x1 - x0] = sheet[row, x0:x1]
            used += x1 - x0
        if right > left and bottom > top:
            sheet[top:bottom, left:right] = 0
    return pixels[:used].copy()


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
