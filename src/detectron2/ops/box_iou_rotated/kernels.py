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
def common_area(dx, dy, a2, a3, a4, a5, b2, b3, b4, b5):  # type: ignore[no-untyped-def]
    """Area that boxes a and b share: rows of :func:`describe`, centers (dx, dy) apart."""
    center_x, center_y = dx * a4 - dy * a5, dx * a5 + dy * a4
    cos, sin = a4 * b4 + a5 * b5, a4 * b5 - a5 * b4
    wide_x, wide_y = b2 * cos, -b2 * sin
    high_x, high_y = b3 * sin, b3 * cos
    x0, y0 = center_x - wide_x - high_x, center_y - wide_y - high_y
    x1, y1 = center_x + wide_x - high_x, center_y + wide_y - high_y
    x2, y2 = center_x + wide_x + high_x, center_y + wide_y + high_y
    x3, y3 = center_x - wide_x + high_x, center_y - wide_y + high_y
    common = edge_integral(x0, y0, x1, y1, a2, a3)
    common += edge_integral(x1, y1, x2, y2, a2, a3)
    common += edge_integral(x2, y2, x3, y3, a2, a3)
    common += edge_integral(x3, y3, x0, y0, a2, a3)
    return abs(common)


@compiled()
def iou_row(first, i, second, start, stop, output):  # type: ignore[no-untyped-def]
    """output[start:stop] = IoU of box i of one list of :func:`describe` with those of another.

    One function for a row: an array passed for every pair would be counted as a reference
    every time, which costs more than all the rest of a pair that is far apart.
    """
    x, y, half_width, half_height = first[i, 0], first[i, 1], first[i, 2], first[i, 3]
    cos, sin, area, radius = first[i, 4], first[i, 5], first[i, 6], first[i, 7]
    for j in range(start, stop):
        dx, dy, reach = second[j, 0] - x, second[j, 1] - y, second[j, 7] + radius
        iou = 0.0
        near = dx * dx + dy * dy <= reach * reach
        if near and area >= SMALLEST_AREA and second[j, 6] >= SMALLEST_AREA:
            common = common_area(
                dx, dy, half_width, half_height, cos, sin,
                second[j, 2], second[j, 3], second[j, 4], second[j, 5],
            )  # fmt: skip
            union = area + second[j, 6] - common
            iou = common / union if union < math.inf else 0.0  # also where it is not a number
        output[j] = iou


@compiled()
def iou_rows(first, second, output, start, stop):  # type: ignore[no-untyped-def]
    """Rows [start, stop) of the (N, M) matrix of two lists of :func:`describe`."""
    for i in range(start, stop):
        iou_row(first, i, second, 0, second.shape[0], output[i])


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
    # Rounded to the type of the threshold when it is stored here.
    ious = np.empty(shapes.shape[0], threshold.dtype)
    for run in range(starts.shape[0] - 1):
        for head in range(starts[run], starts[run + 1]):
            if not keep[place[head]]:
                continue
            iou_row(shapes, head, shapes, head + 1, starts[run + 1], ious)
            for i in range(head + 1, starts[run + 1]):
                if ious[i] > threshold[0]:
                    keep[place[i]] = False
