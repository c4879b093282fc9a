"""The two transforms of Winograd's convolution, as loops over tiles with the channels innermost.

Both directions apply the same small matrix to the columns and then to the rows of a tile; its
products are written out, with what two rows share computed once.
"""

from __future__ import annotations

import numpy as np

from detectron2.ops.compiled import compiled

__all__ = ["transform_gradient", "transform_input", "transform_output"]


@compiled(fused=True)
def columns_to_squares(source, y, x, target):  # type: ignore[no-untyped-def]
    """target (6, 6, C) = B^T d for the tile d of `source` (H, W, C) whose corner is (y, x)."""
    two, four, five = np.float32(2), np.float32(4), np.float32(5)
    for j in range(6):
        for c in range(source.shape[2]):
            d0, d1, d2 = source[y, x + j, c], source[y + 1, x + j, c], source[y + 2, x + j, c]
            d3, d4, d5 = source[y + 3, x + j, c], source[y + 4, x + j, c], source[y + 5, x + j, c]
            even, odd = d4 - four * d2, d3 - four * d1
            even2, odd2 = d4 - d2, two * (d3 - d1)
            target[0, j, c] = four * d0 - five * d2 + d4
            target[1, j, c] = even + odd
            target[2, j, c] = even - odd
            target[3, j, c] = even2 + odd2
            target[4, j, c] = even2 - odd2
            target[5, j, c] = four * d1 - five * d3 + d5


@compiled(fused=True)
def rows_to_squares(half, squares, tile):  # type: ignore[no-untyped-def]
    """squares[:, tile] (36, C) = `half` (6, 6, C) times B."""
    two, four, five = np.float32(2), np.float32(4), np.float32(5)
    for i in range(6):
        for c in range(half.shape[2]):
            d0, d1, d2 = half[i, 0, c], half[i, 1, c], half[i, 2, c]
            d3, d4, d5 = half[i, 3, c], half[i, 4, c], half[i, 5, c]
            even, odd = d4 - four * d2, d3 - four * d1
            even2, odd2 = d4 - d2, two * (d3 - d1)
            squares[6 * i, tile, c] = four * d0 - five * d2 + d4
            squares[6 * i + 1, tile, c] = even + odd
            squares[6 * i + 2, tile, c] = even - odd
            squares[6 * i + 3, tile, c] = even2 + odd2
            squares[6 * i + 4, tile, c] = even2 - odd2
            squares[6 * i + 5, tile, c] = four * d1 - five * d3 + d5


@compiled()
def copy_tile(source, y, x, target):  # type: ignore[no-untyped-def]
    """target (6, 6, C) = the tile of `source` at (y, x), with zeros outside of the map."""
    height, width, channels = source.shape
    for i in range(6):
        for j in range(6):
            inside = 0 <= y + i < height and 0 <= x + j < width
            for c in range(channels):
                target[i, j, c] = source[y + i, x + j, c] if inside else 0


@compiled(fused=True)
def transform_input(source, squares, first, start, stop):  # type: ignore[no-untyped-def]
    """squares (36, tiles, C) of the tiles first + [start, stop) of `source` (N, H, W, C)."""
    images, height, width, channels = source.shape
    rows, columns = -(-height // 4), -(-width // 4)
    border = np.empty((6, 6, channels), source.dtype)
    half = np.empty((6, 6, channels), source.dtype)
    for tile in range(start, stop):
        image, place = divmod(first + tile, rows * columns)
        y, x = place // columns * 4 - 1, place % columns * 4 - 1
        if y >= 0 and x >= 0 and y + 6 <= height and x + 6 <= width:
            columns_to_squares(source[image], y, x, half)
        else:
            copy_tile(source[image], y, x, border)
            columns_to_squares(border, 0, 0, half)
        rows_to_squares(half, squares, tile)


@compiled(fused=True)
def squares_to_columns(squares, tile, half):  # type: ignore[no-untyped-def]
    """half (4, 6, K) = A^T m for the products m, squares[:, tile] (36, K)."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for j in range(6):
        for k in range(squares.shape[2]):
            m1, m2 = squares[6 + j, tile, k], squares[12 + j, tile, k]
            m3, m4 = squares[18 + j, tile, k], squares[24 + j, tile, k]
            near, near_odd, far, far_odd = m1 + m2, m1 - m2, m3 + m4, m3 - m4
            half[0, j, k] = squares[j, tile, k] + near + far
            half[1, j, k] = near_odd + two * far_odd
            half[2, j, k] = near + four * far
            half[3, j, k] = near_odd + eight * far_odd + squares[30 + j, tile, k]


@compiled(fused=True)
def columns_to_cells(half, bias, lowest, row):  # type: ignore[no-untyped-def]
    """row (4, K) = one row of `half` (6, K) times A, plus bias, at least `lowest`."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for k in range(row.shape[1]):
        m1, m2, m3, m4 = half[1, k], half[2, k], half[3, k], half[4, k]
        near, near_odd, far, far_odd = m1 + m2, m1 - m2, m3 + m4, m3 - m4
        v0, v1 = half[0, k] + near + far + bias[k], near_odd + two * far_odd + bias[k]
        v2, v3 = near + four * far + bias[k], near_odd + eight * far_odd + half[5, k] + bias[k]
        # Not max(): NaN stays NaN.
        row[0, k] = lowest if v0 < lowest else v0
        row[1, k] = lowest if v1 < lowest else v1
        row[2, k] = lowest if v2 < lowest else v2
        row[3, k] = lowest if v3 < lowest else v3


@compiled(fused=True)
def transform_output(squares, bias, lowest, target, first, start, stop):  # type: ignore[no-untyped-def]
    """Tiles first + [start, stop) of `target` (N, H, W, K) from squares (36, tiles, K)."""
    images, height, width, channels = target.shape
    rows, columns = -(-height // 4), -(-width // 4)
    half = np.empty((4, 6, channels), target.dtype)
    border = np.empty((4, channels), target.dtype)
    for tile in range(start, stop):
        image, place = divmod(first + tile, rows * columns)
        y, x = place // columns * 4, place % columns * 4
        squares_to_columns(squares, tile, half)
        for i in range(min(4, height - y)):
            if x + 4 <= width:
                columns_to_cells(half[i], bias, lowest, target[image, y + i, x : x + 4])
            else:
                columns_to_cells(half[i], bias, lowest, border)
                target[image, y + i, x:] = border[: width - x]


@compiled(fused=True)
def gradient_to_columns(source, y, x, half):  # type: ignore[no-untyped-def]
    """half (6, 4, K) = A g for the tile g of `source` (H, W, K) at (y, x), zero outside of it."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    rows, columns = min(4, source.shape[0] - y), min(4, source.shape[1] - x)
    if rows == 4:
        for j in range(columns):
            for k in range(source.shape[2]):
                g0, g1 = source[y, x + j, k], source[y + 1, x + j, k]
                g2, g3 = source[y + 2, x + j, k], source[y + 3, x + j, k]
                near, near_odd = g0 + g2, g1 + g3
                far, far_odd = g0 + four * g2, two * g1 + eight * g3
                half[0, j, k] = g0
                half[1, j, k] = near + near_odd
                half[2, j, k] = near - near_odd
                half[3, j, k] = far + far_odd
                half[4, j, k] = far - far_odd
                half[5, j, k] = g3
    else:
        for j in range(columns):
            for k in range(source.shape[2]):
                g0 = source[y, x + j, k]
                g1 = source[y + 1, x + j, k] if rows > 1 else g0 * 0
                g2 = source[y + 2, x + j, k] if rows > 2 else g0 * 0
                half[0, j, k] = g0
                half[1, j, k] = g0 + g2 + g1
                half[2, j, k] = g0 + g2 - g1
                half[3, j, k] = g0 + four * g2 + two * g1
                half[4, j, k] = g0 + four * g2 - two * g1
                half[5, j, k] = 0
    half[:, columns:] = 0


@compiled(fused=True)
def transform_gradient(source, squares, first, start, stop):  # type: ignore[no-untyped-def]
    """squares (36, tiles, K) = A g A^T of tiles first + [start, stop) of `source` (N, H, W, K)."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    images, height, width, channels = source.shape
    rows, columns = -(-height // 4), -(-width // 4)
    half = np.empty((6, 4, channels), source.dtype)
    for tile in range(start, stop):
        image, place = divmod(first + tile, rows * columns)
        gradient_to_columns(source[image], place // columns * 4, place % columns * 4, half)
        for i in range(6):
            for k in range(channels):
                g0, g1, g2, g3 = half[i, 0, k], half[i, 1, k], half[i, 2, k], half[i, 3, k]
                near, near_odd = g0 + g2, g1 + g3
                far, far_odd = g0 + four * g2, two * g1 + eight * g3
                squares[6 * i, tile, k] = g0
                squares[6 * i + 1, tile, k] = near + near_odd
                squares[6 * i + 2, tile, k] = near - near_odd
                squares[6 * i + 3, tile, k] = far + far_odd
                squares[6 * i + 4, tile, k] = far - far_odd
                squares[6 * i + 5, tile, k] = g3
