"""Outlines of a binary mask, by walking along the cracks between pixels.

A crack is a unit edge between a pixel of the mask and one outside it, directed so that the mask
lies on its right. Following cracks from end to start gives closed loops: clockwise (as seen on
screen) around a region, anticlockwise around a hole. Regions are 8-connected, holes 4-connected.
All cracks and their successors are found with array operations; only the walk itself is a loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Contour", "trace"]

# Sides of a pixel in walking order: top (heading right), right (down), bottom (left), left (up).
# For each side: (row, column) steps to the pixel across it, to the pixel ahead-left (outside the
# mask so far) and to the pixel ahead-right (the next along the same side).
_ACROSS = ((-1, 0), (0, 1), (1, 0), (0, -1))
_AHEAD_LEFT = ((-1, 1), (1, 1), (1, -1), (-1, -1))
_AHEAD_RIGHT = ((0, 1), (1, 0), (0, -1), (-1, 0))


@dataclass(frozen=True)
class Contour:
    """One closed outline.

    points: (P, 2) int64 (column, row) of the mask pixels along it, consecutive ones touching.
    area: pixels enclosed, holes counted in; of a hole contour the size of the hole.
    """

    points: np.ndarray
    area: int
    is_hole: bool


def _cracks(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``side * size + pixel`` of all cracks, sorted, and the code that follows each.

    Pixels are indices into the flattened `padded` mask, whose border is empty.
    """
    flat = padded.ravel()
    size, width = flat.size, padded.shape[1]
    inside = np.flatnonzero(flat)
    codes, successors = [], []
    for side in range(4):
        across, left, right = (
            row * width + column
            for row, column in (_ACROSS[side], _AHEAD_LEFT[side], _AHEAD_RIGHT[side])
        )
        pixels = inside[~flat[inside + across]]
        turn_left = pixels + left + (side - 1) % 4 * size
        straight = pixels + right + side * size
        turn_right = pixels + (side + 1) % 4 * size
        # Diagonal neighbours belong together, so a left turn is taken wherever possible.
        following = np.where(flat[pixels + right], straight, turn_right)
        codes.append(pixels + side * size)
        successors.append(np.where(flat[pixels + left], turn_left, following))
    return np.concatenate(codes), np.concatenate(successors)


def _loops(successor: np.ndarray) -> list[list[int]]:
    """Cycles of a permutation, each a list of indices in walking order."""
    following: list[int] = successor.tolist()
    seen = bytearray(len(following))
    loops = []
    start = 0
    while (start := seen.find(0, start)) >= 0:
        loop, crack = [], start
        while not seen[crack]:
            seen[crack] = 1
            loop.append(crack)
            crack = following[crack]
        loops.append(loop)
    return loops


def _to_contour(codes: np.ndarray, padded: np.ndarray) -> Contour:
    side, pixels = np.divmod(codes, padded.size)
    rows, columns = np.divmod(pixels, padded.shape[1])
    # Green's theorem: a crack heading down lies at column + 1, one heading up at column.
    area = int((columns + 1)[side == 1].sum() - columns[side == 3].sum())
    new_pixel = np.flatnonzero(pixels != np.roll(pixels, 1))
    if len(new_pixel) == 0:  # a single pixel: four cracks around it
        new_pixel = np.zeros(1, dtype=np.int64)
    points = np.stack([columns[new_pixel], rows[new_pixel]], axis=1) - 1  # undo the padding
    return Contour(points, abs(area), is_hole=area < 0)


def trace(mask: np.ndarray) -> list[Contour]:
    """All outlines of an (H, W) boolean mask, in reading order of their first pixel."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return []
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    padded = np.pad(mask[top:bottom, left:right].astype(bool), 1)
    codes, successors = _cracks(padded)
    contours = [
        _to_contour(codes[loop], padded) for loop in _loops(np.searchsorted(codes, successors))
    ]
    offset = np.array([left, top])
    return [Contour(c.points + offset, c.area, c.is_hole) for c in contours]
