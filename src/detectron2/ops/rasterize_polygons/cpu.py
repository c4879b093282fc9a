"""Filling polygons on CPU: a loop over edges and the columns they cross, compiled by Numba.

The COCO API lists every fine point of every edge, 5 per pixel, and sorts the crossings among
them. Here each crossing is computed on its own and flips one bit; a running XOR down the rows,
a row of pixels at a time, then gives the inside. Written memory: one byte per pixel of the
polygon's bounding box, twice.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.compiled import as_array, compiled
from detectron2.ops.threads import parallel_for

MASKS_PER_BLOCK = 8
FINE = 5  # see reference.py
HALF = FINE // 2


@compiled()
def fine(coordinate):  # type: ignore[no-untyped-def]
    """Rounded to a fifth of a pixel, in fifths. What is no number counts as 0."""
    scaled = coordinate * FINE + 0.5
    # Far outside of any image, where a 32-bit integer of the COCO API still holds it.
    if not (scaled > -1e9):
        return -1_000_000_000 if scaled <= -1e9 else 0
    return int(min(scaled, 1e9))


@compiled()
def flip_crossings(flips, x0, y0, x1, y1):  # type: ignore[no-untyped-def]
    """Flip, in every column that an edge crosses, the bit where what is below changes sides.

    Args:
        flips: (H + 1, W) uint8, changed; row H collects what lies below the mask.
        x0, y0, x1, y1: ends of the edge, in fifths.
    """
    height, width = flips.shape[0] - 1, flips.shape[1]
    along_x = abs(x1 - x0) >= abs(y1 - y0)
    if (along_x and x0 > x1) or (not along_x and y0 > y1):
        x0, y0, x1, y1 = x1, y1, x0, y0
    # Columns whose fine columns 5c + 2 and 5c + 3 both lie on the edge.
    first = max(-((HALF - min(x0, x1)) // FINE), 0)
    last = min((max(x0, x1) - HALF - 1) // FINE, width - 1)
    if last < first:
        return
    steps = float(x1 - x0) if along_x else float(y1 - y0)
    slope = float(y1 - y0) / steps if along_x else float(x1 - x0) / steps
    for column in range(first, last + 1):
        inner = FINE * column + HALF
        if along_x:
            before = float(inner - x0)
            row = min(int(y0 + slope * before + 0.5), int(y0 + slope * (before + 1.0) + 0.5))
        else:
            # The first point on the far side; the division ends on it or just before.
            step = int((inner + 0.5 - x0) / slope)
            while (int(x0 + slope * step + 0.5) > inner) != (slope > 0):
                step += 1
            row = y0 + step - 1
        row = min(max(-((HALF - row) // FINE), 0), height)
        flips[row, column] ^= 1


@compiled()
def fill_polygon(mask, flips, corners):  # type: ignore[no-untyped-def]
    """Add one polygon to a mask.

    Args:
        mask: (H, W) uint8, changed.
        flips: (H + 1, W) uint8 of zeros; zeros again afterwards.
        corners: (V, 2) float64.
    """
    height, width = mask.shape
    left, right, top, bottom = width, 0, height, 0
    x0, y0 = fine(corners[-1, 0]), fine(corners[-1, 1])
    for index in range(corners.shape[0]):
        x1, y1 = fine(corners[index, 0]), fine(corners[index, 1])
        flip_crossings(flips, x0, y0, x1, y1)
        left, right = min(left, x1 // FINE), max(right, x1 // FINE + 1)
        top, bottom = min(top, y1 // FINE), max(bottom, y1 // FINE + 2)
        x0, y0 = x1, y1
    # Crossings are rounded down by less than a pixel, and clamped to rows 0 to H.
    left, right = max(left, 0), min(right, width)
    top, bottom = min(max(top - 1, 0), height), min(max(bottom, 1), height)
    if right <= left:
        return
    for row in range(top, bottom):
        flip, mask_row, below = flips[row], mask[row], flips[row + 1]
        for column in range(left, right):
            inside = flip[column]
            mask_row[column] |= inside
            below[column] ^= inside
            flip[column] = 0
    flips[height, left:right] = 0


@compiled()
def fill_masks(masks, flips, vertices, begins, polygons):  # type: ignore[no-untyped-def]
    """Fill masks that follow each other.

    Args:
        masks: (N, H, W) uint8 of zeros, written.
        flips: (H + 1, W) uint8 of zeros.
        vertices: (V, 2) float64, corners of all polygons.
        begins: (P + 1,) int64, where the corners of each polygon begin.
        polygons: (N + 1,) int64, where the polygons of each mask begin.
    """
    for index in range(masks.shape[0]):
        for polygon in range(polygons[index], polygons[index + 1]):
            corners = vertices[begins[polygon] : begins[polygon + 1]]
            if corners.shape[0] > 0:
                fill_polygon(masks[index], flips, corners)


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
    from detectron2.ops.rasterize_polygons.crops import rasterize_polygon_crops_cpu

    triangle = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]], dtype=torch.float64)
    rasterize_polygons_cpu(triangle, torch.tensor([3]), torch.tensor([0]), 1, 4, 4)
    rasterize_polygon_crops_cpu(triangle, torch.tensor([3]), torch.tensor([0]), 1, (4, 4))
