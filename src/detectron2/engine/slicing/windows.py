"""Where the slices of a large image lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Window", "reduced", "windows_over"]


@dataclass(frozen=True)
class Window:
    """Rows top <= y < bottom and columns left <= x < right of an image of (height, width)."""

    left: int
    top: int
    right: int
    bottom: int
    image_height: int
    image_width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """This part of an (H, W, C) image, in memory of its own."""
        return np.array(image[self.top : self.bottom, self.left : self.right])

    def inner_sides(self) -> tuple[bool, bool, bool, bool]:
        """Whether the left, top, right and bottom side lie inside of the image."""
        return (
            self.left > 0,
            self.top > 0,
            self.right < self.image_width,
            self.bottom < self.image_height,
        )


def windows_over(height: int, width: int, size: int, overlap: float) -> Iterator[Window]:
    """Windows that cover an image, row by row.

    All have the same size, and neighbours share at least the fraction `overlap` of it: an object
    that is smaller than the overlap is whole in one of them.

    Args:
        height, width: of the image, in pixels.
        size: of a window's sides; an image that is smaller makes the window smaller.
        overlap: 0 <= overlap < 1.

    Raises:
        ValueError: `size` is below 1, or `overlap` is outside of its range.
    """
    if size < 1:
        raise ValueError(f"The slice size is {size}; use at least 1 pixel.")
    if not 0 <= overlap < 1:
        raise ValueError(f"The overlap of slices is {overlap}; use a fraction from 0 to below 1.")
    for top in _starts(height, size, overlap):
        for left in _starts(width, size, overlap):
            right, bottom = min(left + size, width), min(top + size, height)
            yield Window(left, top, right, bottom, height, width)


def _starts(length: int, size: int, overlap: float) -> list[int]:
    """First pixels of equally spaced windows over an axis."""
    if length <= size:
        return [0]
    step = max(size * (1 - overlap), 1)
    count = int(np.ceil((length - size) / step)) + 1
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """An (H, W, C) image whose pixels are means of blocks of factor x factor.

    It is read in strips of rows, so that an array on disk (`numpy.memmap`) never is in memory as
    a whole. Up to factor - 1 rows and columns at the end are left out.

    Args:
        factor: at least 1, at most the shorter side.
    """
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    result = np.empty((rows, columns, *image.shape[2:]), dtype=image.dtype)
    for row in range(rows):
        strip = np.asarray(image[row * factor : (row + 1) * factor, : columns * factor])
        blocks = strip.reshape(factor, columns, factor, *image.shape[2:])
        mean = blocks.mean(axis=(0, 2), dtype=np.float32)
        result[row] = mean.round() if np.issubdtype(image.dtype, np.integer) else mean
    return result
