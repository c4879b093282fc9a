"""Bilinear samples of feature maps, as the Triton kernels of ROI pooling take them."""

import triton
import triton.language as tl

from detectron2.ops.launching import divide

__all__ = [
    "bin_samples",
    "cells_around",
    "first_visited",
    "read_corners",
    "spread_to_corners",
]


@triton.jit
def bin_samples(side, most, BINS: tl.constexpr, RATIO: tl.constexpr):  # type: ignore[no-untyped-def]
    """One axis of a box: side of a bin, samples per bin, and how many of them to visit.

    Args:
        side: of the box, in cells.
        most: no more samples than these of a bin can be on the map.
    """
    bin_side = divide(side, tl.full((), BINS, side.dtype))
    if RATIO > 0:
        samples = tl.full((), RATIO, tl.int32)
        visits = samples
    else:
        # False for NaN, too. Of a side beyond 1e9 cells hardly a sample is on the map.
        usable = (side > 0) & (side < 1e9)
        samples = tl.ceil(tl.where(usable, bin_side, 0.0)).to(tl.int32)
        visits = tl.minimum(samples, most)
    return bin_side, samples, visits


@triton.jit
def first_visited(start, map_start, bin_side, samples, visits):  # type: ignore[no-untyped-def]
    """Index of the first sample to visit of each bin: 0, unless the box dwarfs the map.

    Args:
        start: where the bins start, on the axis on which the map starts at `map_start`.
    """
    step = bin_side / tl.maximum(samples, 1).to(bin_side.dtype)
    before_map = tl.floor((map_start - start) / step) - 2.0
    latest = (samples - visits).to(start.dtype)
    return tl.where(samples > visits, tl.minimum(tl.maximum(before_map, 0.0), latest), 0.0)


@triton.jit
def cells_around(position, length):  # type: ignore[no-untyped-def]
    """Lower and upper cell of each position, weight of the upper one, and if it is on the map."""
    inside = (position >= -1.0) & (position <= length)
    position = tl.minimum(tl.maximum(tl.where(inside, position, 0.0), 0.0), length - 1.0)
    low = tl.floor(position)
    fraction = position - low
    low = low.to(tl.int32)
    return low, tl.minimum(low + 1, length - 1), fraction, inside


@triton.jit
def corners_of(here, y, x, height, width, stride_row, stride_column):  # type: ignore[no-untyped-def]
    """Addresses and weights of the four cells around (y, x), and if the position is on the map."""
    top, bottom, down, inside_y = cells_around(y, height)
    left, right, across, inside_x = cells_around(x, width)
    # A map may have more than 2^31 numbers, though none of its sides and strides is as large.
    top, bottom = top.to(tl.int64), bottom.to(tl.int64)
    left, right = left.to(tl.int64), right.to(tl.int64)
    a = here + top * stride_row + left * stride_column
    b = here + top * stride_row + right * stride_column
    c = here + bottom * stride_row + left * stride_column
    d = here + bottom * stride_row + right * stride_column
    return a, b, c, d, down, across, inside_y & inside_x


@triton.jit
def read_corners(
    here, y, x, height, width, stride_row, stride_column, exists, REAL: tl.constexpr
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Values at the positions (y, x) of the maps that begin at `here`; 0 off the map."""
    a, b, c, d, down, across, inside = corners_of(
        here, y, x, height, width, stride_row, stride_column
    )
    valid = exists & inside
    value = tl.load(a, mask=valid, other=0.0).to(REAL) * ((1 - down) * (1 - across))
    value += tl.load(b, mask=valid, other=0.0).to(REAL) * ((1 - down) * across)
    value += tl.load(c, mask=valid, other=0.0).to(REAL) * (down * (1 - across))
    value += tl.load(d, mask=valid, other=0.0).to(REAL) * (down * across)
    return value


@triton.jit
def spread_to_corners(
    here, y, x, height, width, stride_row, stride_column, exists, share
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Add `share` to the cells around (y, x) by their weights: the transpose of reading."""
    a, b, c, d, down, across, inside = corners_of(
        here, y, x, height, width, stride_row, stride_column
    )
    valid = exists & inside
    tl.atomic_add(a, share * ((1 - down) * (1 - across)), mask=valid)
    tl.atomic_add(b, share * ((1 - down) * across), mask=valid)
    tl.atomic_add(c, share * (down * (1 - across)), mask=valid)
    tl.atomic_add(d, share * (down * across), mask=valid)
