"""ROI max pooling on CPU, as channels-last loops for Numba.

Budget: every cell of a box is read once, C values in vectors, and compared; 12 bytes per
output value stay in cache.
"""

import numpy as np

from detectron2.ops.compiled import compiled
from detectron2.ops.layout import CHANNELS_PER_TILE

__all__ = ["backward", "forward"]


@compiled()
def keep_larger(best, winner, cell, values):  # type: ignore[no-untyped-def]
    """Where values (c,) are larger than the best so far, they and their cell replace it."""
    for c in range(best.shape[0]):
        larger = values[c] > best[c]
        best[c] = values[c] if larger else best[c]
        winner[c] = cell if larger else winner[c]


@compiled()
def search_bin(cells, width, top, bottom, left, right, first, last, best, winner):  # type: ignore[no-untyped-def]
    """Largest value and its cell, of the channels [first, last) in the cells of one bin.

    Returns:
        False if the bin has no cells; `best` and `winner` are then not written.
    """
    if top >= bottom or left >= right:
        return False
    start = top * width + left
    best[:] = cells[start, first:last]
    winner[:] = np.int32(start)
    for y in range(top, bottom):
        for x in range(left, right):
            cell = y * width + x
            keep_larger(best, winner, np.int32(cell), cells[cell, first:last])
    return True


@compiled()
def forward(features, width, images, rows, columns, order, output, last, start, stop):  # type: ignore[no-untyped-def]
    """Pool the boxes order[start:stop].

    Args:
        features: (N, P, C), the cells of maps of `width`.
        images: (K,) int64.
        rows: (2, K, h) first row of each bin, and one past the last.
        columns: (2, K, w).
        output: (K, h * w, C) if `last`, else (K, C, h * w); zeros.
    """
    height, across, channels = rows.shape[2], columns.shape[2], features.shape[2]
    tile = np.zeros((height * across, channels), features.dtype)
    winner = np.empty(channels, np.int32)
    for index in range(start, stop):
        k = order[index]
        target = output[k] if last else tile
        cells = features[images[k]]
        for i in range(height):
            for j in range(across):
                best = target[i * across + j]
                top, bottom = rows[0, k, i], rows[1, k, i]
                left, right = columns[0, k, j], columns[1, k, j]
                if not search_bin(
                    cells, width, top, bottom, left, right, 0, channels, best, winner
                ):
                    best[:] = features.dtype.type(0)
        if not last:
            for first in range(0, channels, CHANNELS_PER_TILE):
                for channel in range(first, min(channels, first + CHANNELS_PER_TILE)):
                    for cell in range(tile.shape[0]):
                        output[k, channel, cell] = tile[cell, channel]


@compiled()
def backward(gradient, features, width, images, rows, columns, order, grad, last, start, stop):  # type: ignore[no-untyped-def]
    """Add the gradients of all boxes `order` to the channels [start, stop) of the map.

    Args:
        gradient: (N, P, C), added to.
        grad: (K, h * w, C) if `last`, else (K, C, h * w).
        others: as in :func:`forward`.
    """
    best = np.empty(stop - start, features.dtype)
    winner = np.empty(stop - start, np.int32)
    for k in order:
        for i in range(rows.shape[2]):
            for j in range(columns.shape[2]):
                top, bottom = rows[0, k, i], rows[1, k, i]
                left, right = columns[0, k, j], columns[1, k, j]
                cells = features[images[k]]
                if not search_bin(
                    cells, width, top, bottom, left, right, start, stop, best, winner
                ):
                    continue
                cell = i * columns.shape[2] + j
                for c in range(stop - start):
                    value = grad[k, cell, start + c] if last else grad[k, start + c, cell]
                    gradient[images[k], winner[c], start + c] += value
