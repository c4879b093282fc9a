"""Bilinear affine warp of images, compiled by Numba."""

from __future__ import annotations

import numpy as np

from detectron2.ops.compiled import compiled

__all__ = ["warp_bilinear"]


@compiled()
def warp_bilinear(image, out, matrix, rounding):  # type: ignore[no-untyped-def]
    """Sample an image at affinely mapped positions. Outside of it, everything is 0.

    Args:
        image: (H, W, C), any strides.
        out: (h, w, C), written.
        matrix: (2, 3) float64, from pixel indices (x, y) of `out` to those of `image`.
        rounding: added to each value: 0.5 for integers, which are then cut off, else 0.
    """
    height, width, channels = image.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            source_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
            source_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
            if not (-1.0 < source_x < width and -1.0 < source_y < height):
                for channel in range(channels):
                    out[y, x, channel] = 0
                continue
            left, top = int(np.floor(source_x)), int(np.floor(source_y))
            to_right, down = np.float32(source_x - left), np.float32(source_y - top)
            one = np.float32(1)
            for channel in range(channels):
                value = np.float32(rounding)
                if top >= 0 and left >= 0:
                    value += image[top, left, channel] * ((one - to_right) * (one - down))
                if top >= 0 and left + 1 < width:
                    value += image[top, left + 1, channel] * (to_right * (one - down))
                if top + 1 < height and left >= 0:
                    value += image[top + 1, left, channel] * ((one - to_right) * down)
                if top + 1 < height and left + 1 < width:
                    value += image[top + 1, left + 1, channel] * (to_right * down)
                out[y, x, channel] = value
