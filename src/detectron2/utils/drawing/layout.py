"""Where things go, and in which order: corners, spots for labels, centres and islands of masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detectron2.utils.drawing.contours import Contour, trace
from detectron2.utils.drawing.generic_mask import GenericMask

__all__ = [
    "box_label_spots",
    "central_points",
    "common_length",
    "label_font_fraction",
    "largest_first",
    "median_point",
    "middle_of",
    "rotated_corners",
    "without_small_regions",
]

Spot = tuple[float, float, str]  # x, y of the top of a label and which part of it x means


def rotated_corners(box: Sequence[float]) -> np.ndarray:
    """(4, 2) corners of (x centre, y centre, width, height, degrees anticlockwise).

    Order, before turning: bottom left, top left, top right, bottom right.
    """
    x, y, width, height, degrees = (float(value) for value in box)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half = np.array([[-1, 1], [-1, -1], [1, -1], [1, 1]]) * (width / 2, height / 2)
    # y points down, so turning anticlockwise on screen is this matrix and not its transpose.
    return half @ np.array([[cos, -sin], [sin, cos]]) + (x, y)


def label_font_fraction(height: float, picture_side: float) -> float:
    """Size of a label in multiples of the default font: 0.6 at small objects, 1 at tall ones.

    Grows with the height of the object, from 5 % to 10 % of the side of the picture.
    """
    return min(max(0.5 + (height / picture_side - 0.02) / 0.16, 0.6), 1.0)


def box_label_spots(
    box: Sequence[float], plate: tuple[float, float], is_small: bool, picture_height: float
) -> list[Spot]:
    """Spots for the label of an upright box, the usual one first.

    Args:
        box: (x0, y0, x1, y1).
        plate: (width, height) of the label.
        is_small: the label would hide the object, so it goes beside it.
        picture_height: in the same unit.
    """
    x0, y0, x1, y1 = (float(edge) for edge in box)
    inside = (x0, y0, "left")
    below, right = (x0, y1, "left"), (x1, y0, "left")
    above = (x0, y0 - plate[1], "left")
    if is_small:
        at_bottom = y1 >= picture_height - 5
        first = [right, below] if at_bottom else [below, right]
        return [*first, above, (x0, y0, "right"), (x1, y1, "left")]
    corner = (x1, y0, "right")
    foot = (x0, y1 - plate[1], "left")
    return [inside, above, corner, foot, (x1, y1 - plate[1], "right"), below]


def _region(contour: Contour, mask: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Pixels of `mask` within an outline: (h, w) bool and its (left, top)."""
    left, top = contour.points.min(axis=0)
    right, bottom = contour.points.max(axis=0) + 1
    filled = Image.new("1", (int(right - left), int(bottom - top)))
    corners = [(int(x), int(y)) for x, y in contour.points - (left, top)]
    drawing = ImageDraw.Draw(filled)
    if len(corners) > 1:
        drawing.polygon(corners, fill=1, outline=1)
    else:
        drawing.point(corners, fill=1)
    return np.asarray(filled) & mask[top:bottom, left:right], int(left), int(top)


def without_small_regions(
    mask: np.ndarray, contours: Sequence[Contour], area_threshold: float
) -> np.ndarray:
    """(H, W) bool without the regions that enclose fewer than `area_threshold` pixels."""
    small = [c for c in contours if not c.is_hole and c.area < area_threshold]
    if not small:
        return mask
    kept = mask.copy()
    for contour in small:
        region, left, top = _region(contour, mask)
        kept[top : top + region.shape[0], left : left + region.shape[1]] &= ~region
    return kept


def central_points(mask: np.ndarray, large_area: float) -> list[tuple[float, float]]:
    """Median (x, y) of the largest region of a mask and of every other above `large_area`."""
    regions = sorted(
        (contour for contour in trace(mask) if not contour.is_hole), key=lambda c: -c.area
    )
    largest, largest_size, points = None, 0, []
    for contour in regions:
        # An outline encloses at least the pixels of its region: nothing later can count.
        if contour.area <= min(largest_size, large_area):
            break
        region, left, top = _region(contour, mask)
        size = int(region.sum())
        x, y = median_point(region)
        center = (left + x, top + y)
        if size > largest_size:
            if largest is not None and largest_size > large_area:
                points.append(largest)
            largest, largest_size = center, size
        elif size > large_area:
            points.append(center)
    return points if largest is None else [largest, *points]


def median_point(mask: np.ndarray) -> tuple[float, float]:
    """Median column and median row of the pixels of a mask that is not empty."""
    filled = mask != 0
    return _median(filled.sum(axis=0)), _median(filled.sum(axis=1))


def _median(counts: np.ndarray) -> float:
    """Median of numbers 0, 1, ... of which number i occurs ``counts[i]`` times."""
    cumulative = np.cumsum(counts)
    total = int(cumulative[-1])
    middle = [(total - 1) // 2, total // 2]
    low, high = np.searchsorted(cumulative, middle, side="right")
    return float(low + high) / 2


def middle_of(points: dict[str, tuple[float, float]], *names: str) -> tuple[float, float] | None:
    """The mean of named points, None unless all are there."""
    if not all(name in points for name in names):
        return None
    x, y = np.mean([points[name] for name in names], axis=0)
    return float(x), float(y)


def common_length(**lists: Any) -> int:
    """The length that all given lists share; None counts as not given."""
    lengths = {name: len(values) for name, values in lists.items() if values is not None}
    if len(set(lengths.values())) > 1:
        raise AssertionError(f"One entry per instance, but the numbers differ: {lengths}.")
    return next(iter(lengths.values()), 0)


def largest_first(
    boxes: np.ndarray | None, masks: Sequence[GenericMask] | None, count: int
) -> Sequence[int]:
    if boxes is not None:
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    elif masks is not None:
        areas = np.array([mask.area() for mask in masks])
    else:
        return range(count)
    return np.argsort(-areas, kind="stable").tolist()
