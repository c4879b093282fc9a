"""Geometry of polygons and run-length masks, as far as checking them needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["crosses_itself", "polygon_bounds", "rle_counts"]

# The time grows with the square of the points; more than these come from tracing masks, which do
# not cross themselves.
MAX_POINTS = 3000


def crosses_itself(points: np.ndarray) -> bool:
    """Whether two edges of a closed polygon cross in a point inside of both.

    Edges that only touch, and points that repeat, do not count.

    Args:
        points: (P, 2).
    """
    if not 4 <= len(points) <= MAX_POINTS:
        return False
    from detectron2.data.check._crossing_cpu import edges_cross

    return bool(edges_cross(np.ascontiguousarray(points, dtype=np.float64)))


def polygon_bounds(polygons: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) around polygons, each (P, 2)."""
    points = polygons[0] if len(polygons) == 1 else np.concatenate(polygons)
    x0, y0 = points.min(axis=0).tolist()
    x1, y1 = points.max(axis=0).tolist()
    return x0, y0, x1, y1


def rle_counts(rle: dict[str, Any]) -> list[int]:
    """Run lengths of COCO's run-length encoding, compressed or a list.

    The compressed form holds groups of five bits, lowest first, each in a character from code 48
    on whose bit 5 says that another one follows; from the fourth run on it is the difference to
    the run two places before.

    Raises:
        ValueError: the text is no such encoding, or a run is negative or no whole number.
    """
    counts = rle["counts"]
    runs = _numbers(counts) if isinstance(counts, list) else _decode(counts)
    if any(run < 0 for run in runs):
        raise ValueError("a run of negative length")
    return runs


def _numbers(counts: list[Any]) -> list[int]:
    for run in counts:
        if isinstance(run, bool) or not isinstance(run, int):
            raise ValueError(f"a run of length {run!r}")
    return counts


def _decode(text: str | bytes) -> list[int]:
    codes = text if isinstance(text, bytes) else text.encode("ascii", "replace")
    runs: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {chr(code)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # sign
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the text ends in the middle of a number")
    return runs
