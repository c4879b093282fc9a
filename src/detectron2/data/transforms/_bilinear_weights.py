"""How Pillow weighs pixels when it resizes uint8 images bilinearly."""

from __future__ import annotations

import functools

import numpy as np

__all__ = ["FRACTION_BITS", "HALF", "bilinear_weights", "rows_come_first"]

FRACTION_BITS = 22
_ONE = 1 << FRACTION_BITS
HALF = _ONE // 2


def rows_come_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether every version of Pillow resizes the rows before the columns.

    From version 12 on it begins with the columns where that makes the intermediate image much
    smaller, and rounding then differs.
    """
    return new_height >= height or height - new_height <= 2 * (width - new_width)


@functools.lru_cache(maxsize=512)
def bilinear_weights(length: int, new_length: int) -> tuple[np.ndarray, np.ndarray]:
    """How new pixels are made of old ones.

    Returns:
        (new_length,) uint32 first old pixel; and (taps, new_length) int32 weights of it and the
        pixels after it, two or more, which sum up to about 2^22. Weights of pixels beyond the
        last are 0.
    """
    scale = length / new_length
    support = max(scale, 1.0)
    centers = (np.arange(new_length) + 0.5) * scale
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centers + support + 0.5).astype(np.int64), length) - first
    taps = np.arange(max(count.max(), 2))[:, None]
    distances = (taps + first - centers + 0.5) * (1.0 / support)
    weights = np.where(taps < count, np.maximum(1.0 - np.abs(distances), 0.0), 0.0)
    total = np.zeros(new_length)
    for of_tap in weights:  # in this order, because the last bit counts
        total += of_tap
    return first.astype(np.uint32), (weights / total * _ONE + 0.5).astype(np.int32)
