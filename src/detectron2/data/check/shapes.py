"""Geometry of polygons and run-length masks, as far as checking them needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["crosses_itself", "polygon_bounds", "rle_counts"]

# Beyond this many points the pairs of edges take too much memory; such polygons come from masks.
MAX_POINTS = 2000


def crosses_itself(points: np.ndarray) -> bool:
    """Whether two edges of a closed polygon cross in a point inside of both.

    Edges that only touch, and points that repeat, do not count.

    Args:
        points: (P, 2).
    """
    if len(points) < 4 or len(points) > MAX_POINTS:
        return False
    start, end = points, np.roll(points, -1, axis=0)
    direction = end - start
    # side[i, j]: on which side of edge i its neighbour's point j lies; edge j goes from j to j + 1.
    offset = start[None] - start[:, None]
    side = np.sign(direction[:, None, 0] * offset[..., 1] - direction[:, None, 1] * offset[..., 0])
    parted = side * np.roll(side, -1, axis=1) < 0
    return bool((parted & parted.T).any())


def polygon_bounds(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) around flat polygons."""
    points = np.concatenate([np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in polygons])
    x0, y0 = points.min(axis=0)
    x1, y1 = points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


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
