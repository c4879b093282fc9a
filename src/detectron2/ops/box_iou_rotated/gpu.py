"""Rotated IoU on GPU, one program per tile of the matrix, and the suppression's bit matrix.

In float64, in the order of operations of the reference, so that a threshold decides alike. A
tile none of whose circumscribed circles meet is settled by 6 flops a pair instead of 150.

Budget: 64 N + 64 M bytes read, 4 N M written; the reference moves about 200 such matrices of
float64.

Not measured yet: it has run in Triton's interpreter, and compiles for NVIDIA and AMD.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou_rotated.reference import circumradius, shape_parts
from detectron2.ops.launching import EXACT, device_of

__all__ = ["box_iou_rotated", "describe", "pair_ious"]

# 132 registers; four times as many pairs in a tile do not find room in 255.
ROWS, COLUMNS = 8, 32


def describe(boxes: Tensor) -> Tensor:
    """(8, N) float64: center x, y, half width, half height, cos, sin, area, radius of boxes."""
    parts = shape_parts(boxes.detach().to(torch.float64))
    return torch.stack([*parts, 4 * parts[2] * parts[3], circumradius(parts)])


@triton.jit
def clamp(value, limit):  # type: ignore[no-untyped-def]
    return tl.minimum(tl.maximum(value, -limit), limit)


@triton.jit
def edge_integral(xa, ya, xb, yb, half_width, half_height):  # type: ignore[no-untyped-def]
    """Integral of clamp(y, +-half_height) dx along an edge, where |x| <= half_width."""
    left, right = clamp(xa, half_width), clamp(xb, half_width)
    slope = (yb - ya) / tl.where(xb == xa, 1.0, xb - xa)
    y_left, y_right = ya + (left - xa) * slope, ya + (right - xa) * slope
    low, high = tl.minimum(y_left, y_right), tl.maximum(y_left, y_right)
    rise = tl.where(high > low, high - low, 1.0)
    below = tl.minimum(tl.maximum((-half_height - low) / rise, 0.0), 1.0)
    above = tl.minimum(tl.maximum((high - half_height) / rise, 0.0), 1.0)
    within = (clamp(low, half_height) + clamp(high, half_height)) / 2
    mean = (above - below) * half_height + (1 - below - above) * within
    return (right - left) * mean


@triton.jit
def common_area(
    dx, dy, half_width1, half_height1, cos1, sin1, half_width2, half_height2, cos2, sin2
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Area that boxes share whose centers are (dx, dy) apart; blocks that broadcast."""
    center_x, center_y = dx * cos1 - dy * sin1, dx * sin1 + dy * cos1
    cos, sin = cos1 * cos2 + sin1 * sin2, cos1 * sin2 - sin1 * cos2
    wide_x, wide_y = half_width2 * cos, -half_width2 * sin
    high_x, high_y = half_height2 * sin, half_height2 * cos
    x0, y0 = center_x - wide_x - high_x, center_y - wide_y - high_y
    x1, y1 = center_x + wide_x - high_x, center_y + wide_y - high_y
    x2, y2 = center_x + wide_x + high_x, center_y + wide_y + high_y
    x3, y3 = center_x - wide_x + high_x, center_y - wide_y + high_y
    common = edge_integral(x0, y0, x1, y1, half_width1, half_height1)
    common += edge_integral(x1, y1, x2, y2, half_width1, half_height1)
    common += edge_integral(x2, y2, x3, y3, half_width1, half_height1)
    common += edge_integral(x3, y3, x0, y0, half_width1, half_height1)
    return tl.abs(common)


@triton.jit
def load_part(shapes, part, count, index):  # type: ignore[no-untyped-def]
    return tl.load(shapes + part * count.to(tl.int64) + index, mask=index < count, other=0.0)


@triton.jit
def pair_ious(first, second, row, column, count1, count2):  # type: ignore[no-untyped-def]
    """IoU of the boxes `row` (R, 1) of `first` and `column` (1, C) of `second`, of `describe`.

    Rows and columns that do not exist have IoU 0.
    """
    dx = load_part(second, 0, count2, column) - load_part(first, 0, count1, row)
    dy = load_part(second, 1, count2, column) - load_part(first, 1, count1, row)
    area1, area2 = load_part(first, 6, count1, row), load_part(second, 6, count2, column)
    reach = load_part(first, 7, count1, row) + load_part(second, 7, count2, column)
    # Comparisons with NaN are false.
    near = (dx * dx + dy * dy <= reach * reach) & (area1 >= 1e-14) & (area2 >= 1e-14)
    iou = dx * 0.0
    if tl.max(near.to(tl.int32)) > 0:
        common = common_area(
            dx, dy,
            load_part(first, 2, count1, row), load_part(first, 3, count1, row),
            load_part(first, 4, count1, row), load_part(first, 5, count1, row),
            load_part(second, 2, count2, column), load_part(second, 3, count2, column),
            load_part(second, 4, count2, column), load_part(second, 5, count2, column),
        )  # fmt: skip
        union = area1 + area2 - common
        proper = near & (union < float("inf"))
        iou = tl.where(proper, common / tl.where(proper, union, 1.0), 0.0)
    return tl.where(near, iou, 0.0)


@triton.jit(do_not_specialize=["count1", "count2"])
def iou_tile(
    first, second, output, count1, count2, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # type: ignore[no-untyped-def]  # fmt: skip
    tiles = tl.cdiv(count2, COLUMNS)  # of a row of tiles
    row_tile, column_tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = row_tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = column_tile.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    iou = pair_ious(first, second, row, column, count1, count2)
    exists = (row < count1) & (column < count2)
    tl.store(output + row * count2 + column, iou.to(output.dtype.element_ty), mask=exists)


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """The Triton version of :func:`detectron2.ops.box_iou_rotated`."""
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    first, second = describe(boxes1), describe(boxes2)
    output = torch.empty((len(boxes1), len(boxes2)), dtype=real, device=boxes1.device)
    if output.numel():
        grid = (triton.cdiv(len(boxes1), ROWS) * triton.cdiv(len(boxes2), COLUMNS),)
        with device_of(first):
            iou_tile[grid](
                first, second, output, len(boxes1), len(boxes2),
                ROWS=ROWS, COLUMNS=COLUMNS, **EXACT,
            )  # fmt: skip
    return output.to(dtype)
