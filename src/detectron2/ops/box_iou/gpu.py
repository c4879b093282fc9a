"""Pairwise IoU on GPU: one program per tile of the matrix.

Budget: 4 N M bytes written once, 14 flops a pair; the reference moves about 12 such matrices.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.launching import EXACT, device_of, divide, real_type

__all__ = ["box_iou"]

ROWS, COLUMNS = 16, 128


@triton.jit
def load_sides(boxes, index, exists, REAL: tl.constexpr):  # type: ignore[no-untyped-def]
    """x0, y0, x1, y1 and area of some of (N, 4) boxes."""
    x0 = tl.load(boxes + index * 4, mask=exists, other=0.0).to(REAL)
    y0 = tl.load(boxes + index * 4 + 1, mask=exists, other=0.0).to(REAL)
    x1 = tl.load(boxes + index * 4 + 2, mask=exists, other=0.0).to(REAL)
    y1 = tl.load(boxes + index * 4 + 3, mask=exists, other=0.0).to(REAL)
    return x0, y0, x1, y1, (x1 - x0) * (y1 - y0)


@triton.jit(do_not_specialize=["count1", "count2"])
def iou_tile(
    boxes1, boxes2, output, count1, count2,
    REAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    tiles = tl.cdiv(count2, COLUMNS)  # of a row of tiles
    row_tile, column_tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = row_tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # (ROWS, 1)
    column = column_tile.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    ax0, ay0, ax1, ay1, area1 = load_sides(boxes1, row, row < count1, REAL)
    bx0, by0, bx1, by1, area2 = load_sides(boxes2, column, column < count2, REAL)
    width = tl.maximum(tl.minimum(ax1, bx1) - tl.maximum(ax0, bx0), 0.0)
    height = tl.maximum(tl.minimum(ay1, by1) - tl.maximum(ay0, by0), 0.0)
    common = width * height
    union = area1 + area2 - common
    # Comparisons with NaN are false.
    touching = (common > 0) & (union < float("inf"))
    iou = tl.where(touching, divide(common, tl.where(touching, union, 1.0)), 0.0)
    tl.store(
        output + row * count2 + column,
        iou.to(output.dtype.element_ty),
        mask=(row < count1) & (column < count2),
    )


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """The Triton version of :func:`detectron2.ops.box_iou`."""
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    real = compute_dtype(dtype)
    first = boxes1.detach().to(real).contiguous()
    second = boxes2.detach().to(real).contiguous()
    output = torch.empty((len(first), len(second)), dtype=dtype, device=first.device)
    if output.numel():
        grid = (triton.cdiv(len(first), ROWS) * triton.cdiv(len(second), COLUMNS),)
        with device_of(first):
            iou_tile[grid](
                first, second, output, len(first), len(second),
                REAL=real_type(dtype), ROWS=ROWS, COLUMNS=COLUMNS,
                num_warps=8 if real == torch.float64 else 4, **EXACT,
            )  # fmt: skip
    return output
