"""Loops that fill polygons, compiled by Numba.

The COCO API lists every fine point of every edge, 5 per pixel, and sorts the crossings among
them. Here each crossing is computed on its own and flips one bit; a running XOR down the rows,
a row of pixels at a time, then gives the inside. Written memory: one byte per pixel of the
polygon's bounding box, twice.
"""

import numpy as np

from detectron2.ops.compiled import compiled

FINE = 5  # see reference.py
HALF = FINE // 2

# Further than this from its corners, in pixels, no polygon is filled.
REACH = 4


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
