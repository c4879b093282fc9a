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

__all__ = ["box_iou_rotated_reference", "common_area"]

SMALLEST_AREA = 1e-14


def box_iou_rotated_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(N, M) IoU of (N, 5) and (M, 5) boxes; see :func:`detectron2.ops.box_iou_rotated`."""
    result_dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    # MPS has no float64; elsewhere it makes the result exact to the last float32 digit.
    dtype = torch.float32 if boxes1.device.type == "mps" else torch.float64
    first, second = boxes1.to(dtype)[:, None, :], boxes2.to(dtype)[None, :, :]
    area1, area2 = first[..., 2] * first[..., 3], second[..., 2] * second[..., 3]
    common = common_area(first, second)
    empty = (area1 < SMALLEST_AREA) | (area2 < SMALLEST_AREA)
    union = torch.where(empty, 1, area1 + area2 - common)
    return torch.where(empty, 0, common / union).to(result_dtype)


def common_area(first: Tensor, second: Tensor) -> Tensor:
    """Area that boxes `first` (..., 5) and `second` (..., 5) share; shapes broadcast."""
    half_width, half_height = first[..., 2] / 2, first[..., 3] / 2
    corners = corners_in_frame_of(first, second)
    total = torch.zeros((), dtype=first.dtype, device=first.device)
    for (xa, ya), (xb, yb) in zip(corners, corners[1:] + corners[:1]):
        total = total + edge_integral(xa, ya, xb, yb, half_width, half_height)
    return total.abs()


def corners_in_frame_of(first: Tensor, second: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The four corners of `second`, in order, where `first` is centered and upright."""
    to_radians = math.pi / 180
    turn = first[..., 4] * to_radians
    # The difference of the angles before the conversion: exactly 0 for parallel boxes.
    relative = (second[..., 4] - first[..., 4]) * to_radians
    dx, dy = second[..., 0] - first[..., 0], second[..., 1] - first[..., 1]
    # Angles turn counter-clockwise on the screen, where y points down.
    center_x = dx * turn.cos() - dy * turn.sin()
    center_y = dx * turn.sin() + dy * turn.cos()
    half_width, half_height = second[..., 2] / 2, second[..., 3] / 2
    wide_x, wide_y = half_width * relative.cos(), -half_width * relative.sin()
    high_x, high_y = half_height * relative.sin(), half_height * relative.cos()
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
