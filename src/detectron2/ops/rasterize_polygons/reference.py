"""Filling polygons by the rule of the COCO API, with every crossing computed on its own."""

import torch
from torch import Tensor

__all__ = ["rasterize_polygons_reference"]

# The rule works on a grid of fifths of a pixel. The centre of column c lies between the fine
# columns 5c + 2 and 5c + 3: an edge that has points in both crosses it.
FINE = 5


def rasterize_polygons_reference(
    vertices: Tensor, polygon_sizes: Tensor, owners: Tensor, num_masks: int, height: int, width: int
) -> Tensor:
    """(N, H, W) bool; see :func:`detectron2.ops.rasterize_polygons`."""
    masks = torch.zeros(num_masks, height, width, dtype=torch.bool)
    begin = 0
    for count, owner in zip(polygon_sizes.tolist(), owners.tolist()):
        masks[owner] |= _fill(vertices[begin : begin + count], height, width)
        begin += count
    return masks


def _fill(corners: Tensor, height: int, width: int) -> Tensor:
    """(H, W) pixels inside of one polygon with (V, 2) corners."""
    # Truncation, not rounding down: -0.7 becomes 0.
    start = (corners * FINE + 0.5).trunc()  # (V, 2)
    end = start.roll(-1, dims=0)
    column = torch.arange(width, dtype=torch.float64)  # (W,)
    inner = FINE * column + FINE // 2  # the fine column before the centre of a column
    crossed = (torch.minimum(start[:, :1], end[:, :1]) <= inner) & (
        torch.maximum(start[:, :1], end[:, :1]) > inner
    )  # (V, W)
    edge, x = crossed.nonzero(as_tuple=True)
    y = _crossing(start[edge], end[edge], inner[x])
    # In a column, everything below a crossing changes sides. Row H collects what lies below.
    row = torch.ceil((y - FINE // 2) / FINE).clamp(0, height).long()
    crossings = torch.zeros(height + 1, width, dtype=torch.int32)
    crossings.index_put_((row, x), torch.ones((), dtype=torch.int32), accumulate=True)
    return crossings.cumsum(dim=0)[:height] % 2 == 1


def _crossing(start: Tensor, end: Tensor, inner: Tensor) -> Tensor:
    """(E,) fine rows in which edges pass from fine column `inner` to the next, the upper one.

    An edge has one point per step along its longer axis, from the end with the smaller
    coordinate on that axis (along x if both are equally long).
    """
    along_x = (end - start).abs()
    along_x = along_x[:, 0] >= along_x[:, 1]
    axis = torch.where(along_x, 0, 1)[:, None]
    backwards = start.gather(1, axis) > end.gather(1, axis)
    start, end = torch.where(backwards, end, start), torch.where(backwards, start, end)
    dx, dy = (end - start).unbind(1)
    x, y = start.unbind(1)
    # Along x: the rows of the two points.
    slope = torch.where(along_x, dy / dx, 0)
    before = inner - x
    rows = torch.minimum(
        (y + slope * before + 0.5).trunc(), (y + slope * (before + 1) + 0.5).trunc()
    )
    # Along y: the first step on the far side. The division ends on it or just before.
    slope = torch.where(along_x, 1, dx / dy)
    steps = ((inner + 0.5 - x) / slope).floor()[:, None] + torch.arange(3)  # (E, 3)
    columns = (x[:, None] + slope[:, None] * steps + 0.5).trunc()
    far = torch.where(slope[:, None] > 0, columns > inner[:, None], columns <= inner[:, None])
    first = steps.gather(1, far.int().argmax(dim=1, keepdim=True))[:, 0]
    return torch.where(along_x, rows, y + first - 1)
