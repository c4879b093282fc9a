"""ROI max pooling (Fast R-CNN, https://arxiv.org/abs/1504.08083, section 2.1)."""

import torch
from torch import Tensor

__all__ = ["bin_edges", "roi_pool_reference", "winning_cells"]


def round_half_away(values: Tensor) -> Tensor:
    """Round to the nearest integer; halves move away from zero (torch.round takes the even)."""
    return torch.trunc(values + torch.where(values < 0, -0.5, 0.5))


def bin_edges(low: Tensor, high: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """First cell and one past the last cell of every bin along one axis.

    Args:
        low: (K,) first cell of the box, whole numbers.
        high: (K,) last cell of the box, included.
        bins: bins per box.
        length: cells of the map along the axis.

    Returns:
        Two (K, bins) int64 tensors, inside [0, length]; a bin may be empty.
    """
    bin_side = ((high - low + 1).clamp(min=1) / bins)[:, None]  # (K, 1)
    index = torch.arange(bins, device=low.device, dtype=low.dtype)
    start = (torch.floor(index * bin_side) + low[:, None]).clamp(0, length)
    end = (torch.ceil((index + 1) * bin_side) + low[:, None]).clamp(0, length)
    start, end = (torch.where(edge.isnan(), 0, edge) for edge in (start, end))
    return start.to(torch.int64), end.to(torch.int64)


def winning_cells(
    features: Tensor, image: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> Tensor:
    """(K, h, w, C) int64 flat index into H * W of the largest cell of every bin, -1 if empty.

    The first of equal cells wins, in reading order.
    """
    (top, bottom), (left, right) = rows, columns  # (K, h) and (K, w)
    width = features.shape[3]
    cells = features.permute(0, 2, 3, 1)  # (N, H, W, C)
    shape = (image.shape[0], top.shape[1], left.shape[1], features.shape[1])
    best = features.new_full(shape, -torch.inf)
    winner = torch.full(shape, -1, dtype=torch.int64, device=features.device)
    deepest = int((bottom - top).max()) if bottom.numel() else 0
    widest = int((right - left).max()) if right.numel() else 0
    for row in range(deepest):
        for column in range(widest):
            y, x = top + row, left + column
            covered = (y < bottom)[:, :, None] & (x < right)[:, None, :]  # (K, h, w)
            y, x = y.clamp(max=features.shape[2] - 1), x.clamp(max=width - 1)
            values = cells[image[:, None, None], y[:, :, None], x[:, None, :]]  # (K, h, w, C)
            better = covered[..., None] & ((values > best) | (winner < 0))
            best = torch.where(better, values, best)
            index = y[:, :, None] * width + x[:, None, :]
            winner = torch.where(better, index[..., None], winner)
    return winner


def roi_pool_reference(
    input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float
) -> Tensor:
    """(K, C, height, width); see :func:`detectron2.ops.roi_pool`."""
    rois = rois.float() if rois.dtype in (torch.float16, torch.bfloat16) else rois
    x0, y0, x1, y1 = round_half_away(rois[:, 1:] * spatial_scale).unbind(1)
    image = rois[:, 0].to(torch.int64)
    rows = bin_edges(y0, y1, height, input.shape[2])
    columns = bin_edges(x0, x1, width, input.shape[3])
    with torch.no_grad():
        winner = winning_cells(input, image, rows, columns)  # (K, h, w, C)
    cells = input.permute(0, 2, 3, 1).flatten(1, 2)  # (N, H * W, C)
    channel = torch.arange(input.shape[1], device=input.device)
    values = cells[image[:, None, None, None], winner.clamp(min=0), channel]
    return torch.where(winner >= 0, values, 0).permute(0, 3, 1, 2)
