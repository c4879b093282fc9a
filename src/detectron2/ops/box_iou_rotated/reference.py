"""Intersection over union of rotated boxes, in closed form.

The area common to a rectangle P and a polygon Q needs no list of intersection points. In the
frame of P, where P is ``[-a, a] x [-b, b]``, a vertical line at x cuts Q between two edges and
P between -b and b, so the common area is the line integral along the boundary of Q

    | sum over edges of Q of the integral of clamp(y, -b, b) dx for x in [-a, a] |.

Each edge is a straight line: the integral is its clipped width times the mean of a clamped
linear function. Every step is continuous in the boxes, so parallel or coinciding edges, the
hard cases of polygon clipping, need no special care.
"""

import math

import torch
from torch import Tensor

__all__ = ["box_iou_rotated_reference", "circumradius", "common_area", "shape_parts"]

SMALLEST_AREA = 1e-14


def box_iou_rotated_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(N, M) IoU of (N, 5) and (M, 5) boxes; see :func:`detectron2.ops.box_iou_rotated`."""
    result_dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    # MPS has no float64; elsewhere it makes the result exact to the last float32 digit.
    dtype = torch.float32 if boxes1.device.type == "mps" else torch.float64
    first = [part[:, None] for part in shape_parts(boxes1.to(dtype))]  # (N, 1) each
    second = [part[None, :] for part in shape_parts(boxes2.to(dtype))]  # (1, M) each
    common = common_area(first, second)
    area1, area2 = 4 * first[2] * first[3], 4 * second[2] * second[3]
    union = area1 + area2 - common
    # False for NaN and infinite boxes, too.
    proper = (area1 >= SMALLEST_AREA) & (area2 >= SMALLEST_AREA) & (union < torch.inf)
    # Boxes that are far apart share nothing, not even what the sum of the edges rounds to.
    dx, dy = second[0] - first[0], second[1] - first[1]
    proper &= dx * dx + dy * dy <= (circumradius(first) + circumradius(second)).square()
    return torch.where(proper, common / torch.where(proper, union, 1), 0).to(result_dtype)


def shape_parts(boxes: Tensor) -> list[Tensor]:
    """Center x and y, half width and height, cosine and sine of (N, 5) boxes, (N,) each."""
    center_x, center_y, width, height, angle = boxes.unbind(1)
    radians = angle * (math.pi / 180)
    return [center_x, center_y, width / 2, height / 2, radians.cos(), radians.sin()]


def circumradius(parts: list[Tensor]) -> Tensor:
    """Radius of the circle around a box, slightly too large: circles that touch must meet."""
    return torch.sqrt(parts[2].square() + parts[3].square()) * (1 + 1e-9)


def common_area(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Area that two boxes share, given their :func:`shape_parts`; shapes broadcast."""
    corners = corners_in_frame_of(first, second)
    total = torch.zeros_like(first[0] + second[0])
    for (xa, ya), (xb, yb) in zip(corners, corners[1:] + corners[:1]):
        total = total + edge_integral(xa, ya, xb, yb, first[2], first[3])
    return total.abs()


def corners_in_frame_of(first: list[Tensor], second: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The four corners of `second`, in order, where `first` is centered and upright."""
    x1, y1, _, _, cos1, sin1 = first
    x2, y2, half_width, half_height, cos2, sin2 = second
    dx, dy = x2 - x1, y2 - y1
    # Angles turn counter-clockwise on the screen, where y points down.
    center_x, center_y = dx * cos1 - dy * sin1, dx * sin1 + dy * cos1
    # Of the difference of the angles; the sine is exactly 0 for parallel boxes.
    cos, sin = cos1 * cos2 + sin1 * sin2, cos1 * sin2 - sin1 * cos2
    wide_x, wide_y = half_width * cos, -half_width * sin
    high_x, high_y = half_height * sin, half_height * cos
    return [
        (center_x + p * wide_x + q * high_x, center_y + p * wide_y + q * high_y)
        for p, q in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def edge_integral(
    xa: Tensor, ya: Tensor, xb: Tensor, yb: Tensor, half_width: Tensor, half_height: Tensor
) -> Tensor:
    """Integral of clamp(y, -half_height, half_height) dx along an edge, |x| <= half_width."""
    left = torch.clamp(xa, -half_width, half_width)
    right = torch.clamp(xb, -half_width, half_width)
    slope = (yb - ya) / torch.where(xb == xa, 1, xb - xa)
    y_left, y_right = ya + (left - xa) * slope, ya + (right - xa) * slope
    low, high = torch.minimum(y_left, y_right), torch.maximum(y_left, y_right)
    rise = torch.where(high > low, high - low, 1)
    below = ((-half_height - low) / rise).clamp(0, 1)  # fraction of the edge under P
    above = ((high - half_height) / rise).clamp(0, 1)  # and over it
    within = (low.clamp(-half_height, half_height) + high.clamp(-half_height, half_height)) / 2
    mean = (above - below) * half_height + (1 - below - above) * within
    return (right - left) * mean
