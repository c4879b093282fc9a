"""From drawn shapes to the entries of an annotation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from detectron2.structures import BoxMode

__all__ = [
    "box_annotation",
    "corners_of",
    "ellipse",
    "is_parallelogram",
    "polygon_annotation",
    "rotated_annotation",
    "rotated_box",
]

# A polygon of 64 corners covers 99.8 % of its circle.
_CIRCLE_CORNERS = 64


def box_annotation(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    """Annotation of a box; the corners may come in any order."""
    return {
        "bbox": [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)],
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def polygon_annotation(polygons: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Annotation of an object by its parts, polygons [x0, y0, x1, y1, ...]."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return {
        **box_annotation(min(xs), min(ys), max(xs), max(ys)),
        "segmentation": [list(polygon) for polygon in polygons],
    }


def ellipse(cx: float, cy: float, rx: float, ry: float, radians: float = 0.0) -> list[float]:
    """Polygon of an ellipse whose axis `rx` is turned clockwise by an angle."""
    angles = np.linspace(0, 2 * math.pi, _CIRCLE_CORNERS, endpoint=False)
    along, across = rx * np.cos(angles), ry * np.sin(angles)
    cos, sin = math.cos(radians), math.sin(radians)
    xs, ys = cx + along * cos - across * sin, cy + along * sin + across * cos
    return np.stack([xs, ys], axis=1).round(3).reshape(-1).tolist()


def corners_of(box: Sequence[float]) -> np.ndarray:
    """(4, 2) corners of (cx, cy, w, h, degrees anticlockwise): unturned, from the upper left on."""
    cx, cy, w, h, degrees = box
    angle = math.radians(degrees)
    dx = np.array([-w, w, w, -w]) / 2
    dy = np.array([-h, -h, h, h]) / 2
    xs = cx + dx * math.cos(angle) + dy * math.sin(angle)
    ys = cy - dx * math.sin(angle) + dy * math.cos(angle)
    return np.stack([xs, ys], axis=1)


def is_parallelogram(points: np.ndarray) -> bool:
    """Whether the diagonals of (4, 2) points in order halve each other, to 2 % of the longer.

    So they do in a rectangle, also one whose x and y are scaled differently.
    """
    diagonals = points[[0, 1]] - points[[2, 3]]
    middles = (points[[0, 1]] + points[[2, 3]]) / 2
    longest = np.hypot(*diagonals.T).max()
    return bool(np.hypot(*(middles[0] - middles[1])) <= 0.02 * longest)


def rotated_box(points: np.ndarray) -> list[float]:
    """(cx, cy, w, h, degrees) of the smallest rotated box around (4, 2) points.

    The width is that of the side nearest to the direction from the first point to the second,
    so that corners made by `corners_of` give the box that they were made from.
    """
    best: tuple[float, list[float]] | None = None
    for side in np.roll(points, -1, axis=0) - points:
        angle = math.atan2(-side[1], side[0])
        cos, sin = math.cos(angle), math.sin(angle)
        along = points[:, 0] * cos - points[:, 1] * sin
        across = points[:, 0] * sin + points[:, 1] * cos
        w, h = float(np.ptp(along)), float(np.ptp(across))
        u, v = (along.max() + along.min()) / 2, (across.max() + across.min()) / 2
        box = [u * cos + v * sin, -u * sin + v * cos, w, h, math.degrees(angle)]
        # The first side wins unless another is better by more than rounding.
        if best is None or w * h < best[0] * (1 - 1e-6):
            best = (w * h, box)
    assert best is not None
    cx, cy, w, h, degrees = best[1]
    return [float(cx), float(cy), w, h, (degrees + 180) % 360 - 180]


def rotated_annotation(box: Sequence[float]) -> dict[str, Any]:
    """Annotation of a rotated box (cx, cy, w, h, degrees anticlockwise)."""
    return {"bbox": [float(value) for value in box], "bbox_mode": BoxMode.XYWHA_ABS}
