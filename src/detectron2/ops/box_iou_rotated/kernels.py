"""Rotated IoU and the suppression that uses it, as loops for Numba.

The area two boxes share is the closed form of `reference`, in float64 and in its order of
operations. Pairs whose circumscribed circles do not meet, nearly all in a real image, are
settled by 5 flops instead of 120.
"""

import math

import numpy as np

from detectron2.ops.compiled import compiled

__all__ = ["describe", "iou_rows", "suppress_runs"]

SMALLEST_AREA = 1e-14


@compiled()
def describe(boxes):  # type: ignore[no-untyped-def]
    """(N, 8) float64: center x, y, half width, half height, cos, sin, area, radius of boxes."""
    shapes = np.empty((boxes.shape[0], 8), np.float64)
    for i in range(boxes.shape[0]):
        half_width, half_height = np.float64(boxes[i, 2]) / 2, np.float64(boxes[i, 3]) / 2
        radians = np.float64(boxes[i, 4]) * (math.pi / 180)
        shapes[i, 0], shapes[i, 1] = boxes[i, 0], boxes[i, 1]
        shapes[i, 2], shapes[i, 3] = half_width, half_height
        shapes[i, 4], shapes[i, 5] = math.cos(radians), math.sin(radians)
        shapes[i, 6] = 4 * half_width * half_height
        # As `circumradius` of the reference.
        shapes[i, 7] = math.sqrt(half_width**2 + half_height**2) * (1 + 1e-9)
    return shapes


@compiled()
def clamp(value, limit):  # type: ignore[no-untyped-def]
    return min(max(value, -limit), limit)


@compiled()
def edge_integral(xa, ya, xb, yb, half_width, half_height):  # type: ignore[no-untyped-def]
    """Integral of clamp(y, +-half_height) dx along an edge, where |x| <= half_width."""
    left, right = clamp(xa, half_width), clamp(xb, half_width)
    if left == right:
        return 0.0
    slope = (yb - ya) / (xb - xa)
    y_left, y_right = ya + (left - xa) * slope, ya + (right - xa) * slope
    low, high = min(y_left, y_right), max(y_left, y_right)
    rise = high - low if high > low else 1.0
    below = min(max((-half_height - low) / rise, 0.0), 1.0)
    above = min(max((high - half_height) / rise, 0.0), 1.0)
    within = (clamp(low, half_height) + clamp(high, half_height)) / 2
    mean = (above - below) * half_height + (1 - below - above) * within
    return (right - left) * mean


@compiled()
def pair_iou(a, b):  # type: ignore[no-untyped-def]
    """IoU of two rows of :func:`describe`."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    reach = a[7] + b[7]
    if not (dx * dx + dy * dy <= reach * reach):
        return 0.0
    if not (a[6] >= SMALLEST_AREA and b[6] >= SMALLEST_AREA):
        return 0.0
    center_x, center_y = dx * a[4] - dy * a[5], dx * a[5] + dy * a[4]
    cos, sin = a[4] * b[4] + a[5] * b[5], a[4] * b[5] - a[5] * b[4]
    wide_x, wide_y = b[2] * cos, -b[2] * sin
    high_x, high_y = b[3] * sin, b[3] * cos
    x0, y0 = center_x - wide_x - high_x, center_y - wide_y - high_y
    x1, y1 = center_x + wide_x - high_x, center_y + wide_y - high_y
    x2, y2 = center_x + wide_x + high_x, center_y + wide_y + high_y
    x3, y3 = center_x - wide_x + high_x, center_y - wide_y + high_y
    common = edge_integral(x0, y0, x1, y1, a[2], a[3])
    common += edge_integral(x1, y1, x2, y2, a[2], a[3])
    common += edge_integral(x2, y2, x3, y3, a[2], a[3])
    common += edge_integral(x3, y3, x0, y0, a[2], a[3])
    common = abs(common)
    union = a[6] + b[6] - common
    return common / union if union < math.inf else 0.0  # also where it is not a number


@compiled()
def iou_rows(first, second, output, start, stop):  # type: ignore[no-untyped-def]
    """Rows [start, stop) of the (N, M) matrix of two lists of :func:`describe`."""
    for i in range(start, stop):
        for j in range(second.shape[0]):
            output[i, j] = pair_iou(first[i], second[j])


@compiled()
def suppress_runs(shapes, place, starts, threshold, keep):  # type: ignore[no-untyped-def]
    """Greedy suppression in R runs of boxes, each in order of descending score.

    Args:
        shapes: (N, 8) of :func:`describe`.
        place: (N,) where the verdict of a box belongs.
        starts: (R + 1,) beginnings of the runs, and the end of the last.
        threshold: (1,) of the type that IoUs are rounded to before they are compared.
        keep: (N,) bool, all True, written.
    """
    for run in range(starts.shape[0] - 1):
        for head in range(starts[run], starts[run + 1]):
            if not keep[place[head]]:
                continue
            for i in range(head + 1, starts[run + 1]):
                if keep[place[i]]:
                    iou = threshold.dtype.type(pair_iou(shapes[head], shapes[i]))
                    if iou > threshold[0]:
                        keep[place[i]] = False
