"""The sampling half of deformable convolution on CPU, as channels-last loops for Numba.

A block of output positions reads its taps into rows of values, (positions, P * C / groups) for
each group; PyTorch multiplies those with the weights. Budget per tap and position: four cells,
C values each, read in vectors, one row of C values written.
"""

import math

import numpy as np

from detectron2.ops.compiled import compiled

__all__ = ["gather", "scatter", "slope"]


@compiled()
def tap_position(offset, geometry, group, tap, place):  # type: ignore[no-untyped-def]
    """Where a tap reads for output position number `place`, in cells.

    Args:
        offset: (G, P, 2, h * w) of one image.
        geometry: (kernel columns, output columns, stride, padding, dilation), the last three
            as (vertical, horizontal).
    """
    kernel_columns, columns, stride, padding, dilation = geometry
    real = offset.dtype.type
    row = (tap // kernel_columns) * dilation[0] - padding[0] + (place // columns) * stride[0]
    column = (tap % kernel_columns) * dilation[1] - padding[1] + (place % columns) * stride[1]
    return offset[group, tap, 0, place] + real(row), offset[group, tap, 1, place] + real(column)


@compiled()
def corners(y, x, size, real, cells, weights, slopes):  # type: ignore[no-untyped-def]
    """The four cells around a position; False if it is off the map.

    Args:
        cells: (4,) written: index of each cell, 0 where there is none.
        weights: (4,) written: bilinear weights, 0 where there is no cell.
        slopes: (2, 4) written: derivatives of the weights in y and in x.
    """
    if not (y > -1 and y < size[0] and x > -1 and x < size[1]):
        return False
    top, left = int(math.floor(y)), int(math.floor(x))
    down, across = y - real(top), x - real(left)
    for bottom in range(2):
        for right in range(2):
            k = 2 * bottom + right
            row, column = top + bottom, left + right
            exists = row >= 0 and row < size[0] and column >= 0 and column < size[1]
            there = real(1) if exists else real(0)
            along_y = (down if bottom else real(1) - down) * there
            along_x = (across if right else real(1) - across) * there
            cells[k] = row * size[1] + column if exists else 0
            weights[k] = along_y * along_x
            slopes[0, k] = along_x if bottom else -along_x
            slopes[1, k] = along_y if right else -along_y
    return True


@compiled(fused=True)
def weighted_sum(target, f0, f1, f2, f3, weights, gate):  # type: ignore[no-untyped-def]
    w0, w1, w2, w3 = gate * weights[0], gate * weights[1], gate * weights[2], gate * weights[3]
    for c in range(target.shape[0]):
        target[c] = (w0 * f0[c] + w1 * f1[c]) + (w2 * f2[c] + w3 * f3[c])


@compiled(fused=True)
def add_weighted(target, values, weight):  # type: ignore[no-untyped-def]
    for c in range(target.shape[0]):
        target[c] += weight * values[c]


@compiled(fused=True, reordered=True)
def dot(first, second):  # type: ignore[no-untyped-def]
    total = first.dtype.type(0)
    for c in range(first.shape[0]):
        total += first[c] * second[c]
    return total


@compiled(fused=True)
def gather(image, size, offset, mask, geometry, columns, first, start, stop):  # type: ignore[no-untyped-def]
    """Read the taps of the output positions [first + start, first + stop).

    Args:
        image: (H * W, C).
        offset: (G, P, 2, h * w).
        mask: (G, P, h * w), or (0, 0, 0) for none.
        columns: (groups, positions, P, C / groups), written.
    """
    real = image.dtype.type
    cells, weights = np.empty(4, np.int64), np.empty(4, image.dtype)
    slopes = np.empty((2, 4), image.dtype)
    share, per_group = image.shape[1] // offset.shape[0], columns.shape[3]
    for place in range(start, stop):
        for group in range(offset.shape[0]):
            for tap in range(offset.shape[1]):
                y, x = tap_position(offset, geometry, group, tap, first + place)
                inside = corners(y, x, size, real, cells, weights, slopes)
                gate = mask[group, tap, first + place] if mask.shape[0] > 0 else real(1)
                low, end = group * share, (group + 1) * share
                while low < end:  # an offset group may span several groups of the convolution
                    part = low // per_group
                    high = min(end, (part + 1) * per_group)
                    begin = part * per_group
                    target = columns[part, place, tap, low - begin : high - begin]
                    if inside:
                        f0, f1 = image[cells[0], low:high], image[cells[1], low:high]
                        f2, f3 = image[cells[2], low:high], image[cells[3], low:high]
                        weighted_sum(target, f0, f1, f2, f3, weights, gate)
                    else:
                        target[:] = real(0)
                    low = high


@compiled(fused=True)
def scatter(gradient, size, offset, mask, geometry, columns, first, start, stop):  # type: ignore[no-untyped-def]
    """Add the gradient of the columns to the channels [start, stop) of an image (H * W, C).

    Args:
        columns: (groups, positions, P, C / groups) gradient; others as in :func:`gather`.
    """
    real = gradient.dtype.type
    cells, weights = np.empty(4, np.int64), np.empty(4, gradient.dtype)
    slopes = np.empty((2, 4), gradient.dtype)
    share, per_group = gradient.shape[1] // offset.shape[0], columns.shape[3]
    for place in range(columns.shape[1]):
        for group in range(start // share, (stop - 1) // share + 1):
            for tap in range(offset.shape[1]):
                y, x = tap_position(offset, geometry, group, tap, first + place)
                if not corners(y, x, size, real, cells, weights, slopes):
                    continue
                gate = mask[group, tap, first + place] if mask.shape[0] > 0 else real(1)
                low, end = max(group * share, start), min((group + 1) * share, stop)
                while low < end:
                    part = low // per_group
                    high = min(end, (part + 1) * per_group)
                    begin = part * per_group
                    values = columns[part, place, tap, low - begin : high - begin]
                    for k in range(4):
                        add_weighted(gradient[cells[k], low:high], values, gate * weights[k])
                    low = high


@compiled(fused=True)
def slope(image, size, offset, mask, geometry, columns, of_offset, of_mask, first, start, stop):  # type: ignore[no-untyped-def]
    """Gradients in the offsets and the mask, of the output positions [start, stop) of a block.

    Args:
        columns: (groups, positions, P, C / groups) gradient; others as in :func:`gather`.
        of_offset: (G, P, 2, h * w), written.
        of_mask: (G, P, h * w), written if there is a mask.
    """
    real = image.dtype.type
    cells, weights = np.empty(4, np.int64), np.empty(4, image.dtype)
    slopes, pull = np.empty((2, 4), image.dtype), np.empty(4, image.dtype)
    share, per_group = image.shape[1] // offset.shape[0], columns.shape[3]
    for place in range(start, stop):
        at = first + place
        for group in range(offset.shape[0]):
            for tap in range(offset.shape[1]):
                y, x = tap_position(offset, geometry, group, tap, at)
                pull[:] = real(0)
                if corners(y, x, size, real, cells, weights, slopes):
                    low, end = group * share, (group + 1) * share
                    while low < end:
                        part = low // per_group
                        high = min(end, (part + 1) * per_group)
                        begin = part * per_group
                        values = columns[part, place, tap, low - begin : high - begin]
                        for k in range(4):
                            pull[k] += dot(values, image[cells[k], low:high])
                        low = high
                    gate = mask[group, tap, at] if mask.shape[0] > 0 else real(1)
                    of_offset[group, tap, 0, at] = gate * dot(pull, slopes[0])
                    of_offset[group, tap, 1, at] = gate * dot(pull, slopes[1])
                    if mask.shape[0] > 0:
                        of_mask[group, tap, at] = dot(pull, weights)
