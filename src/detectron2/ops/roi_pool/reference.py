"""ROI max pooling (Fast R-CNN, https://arxiv.org/abs/1504.08083, section 2.1)."""

import torch
from torch import Tensor

from detectron2.ops.loops import scripted

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
    cells: Tensor, image: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor
) -> Tensor:
    """(K, h, w, C) int64 flat index into H * W of the largest cell of every bin, -1 if empty.

    The first of equal cells wins, in reading order.

    Args:
        cells: (N, H, W, C).
        image: (K,) int64.
        top, bottom: (K, h) edges of the bins, see `bin_edges`.
        left, right: (K, w).
    """
    # The number of steps depends on the values, so a tracer has to be shown the loop.
    if torch.jit.is_tracing():
        return scripted(search)(cells, image, top, bottom, left, right)
    if torch.compiler.is_compiling():
        return search_in_graph(cells, image, top, bottom, left, right)
    return search(cells, image, top, bottom, left, right)


def largest_bin(low: Tensor, high: Tensor) -> Tensor:
    """Cells of the largest bin along one axis, 0 if there are no bins."""
    return torch.cat([(high - low).flatten(), low.new_zeros(1)]).max()


def search(
    cells: Tensor, image: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor
) -> Tensor:
    """:func:`winning_cells` as a plain loop. Can be scripted."""
    widest = largest_bin(left, right)
    shape = [image.shape[0], top.shape[1], left.shape[1], cells.shape[3]]
    best = torch.zeros(shape, dtype=cells.dtype, device=cells.device)
    winner = torch.full(shape, -1, dtype=torch.int64, device=cells.device)
    step = torch.zeros_like(widest)
    for _ in range(int(largest_bin(top, bottom) * widest)):
        best, winner = look(step, widest, best, winner, cells, image, top, bottom, left, right)
        step = step + 1
    return winner


def search_in_graph(cells: Tensor, image: Tensor, *edges: Tensor) -> Tensor:
    """:func:`search` as a loop in the exported graph."""
    from torch._higher_order_ops.while_loop import while_loop

    top, bottom, left, right = edges
    widest = largest_bin(left, right)
    steps = largest_bin(top, bottom) * widest
    shape = (image.shape[0], top.shape[1], left.shape[1], cells.shape[3])

    def unfinished(step: Tensor, best: Tensor, winner: Tensor) -> Tensor:
        return step < steps

    def next_step(step: Tensor, best: Tensor, winner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return step + 1, *look(step, widest, best, winner, cells, image, *edges)

    first = (torch.zeros_like(widest), cells.new_zeros(shape), image.new_full(shape, -1))
    return while_loop(unfinished, next_step, first)[2]


def look(
    step: Tensor,
    widest: Tensor,
    best: Tensor,
    winner: Tensor,
    cells: Tensor,
    image: Tensor,
    top: Tensor,
    bottom: Tensor,
    left: Tensor,
    right: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compare cell number `step` of every bin, in rows of `widest` cells, with the best so far."""
    y, x = top + step // widest, left + step % widest  # (K, h) and (K, w)
    covered = (y < bottom)[:, :, None] & (x < right)[:, None, :]  # (K, h, w)
    height, width = cells.shape[1], cells.shape[2]
    y, x = y.clamp(max=height - 1)[:, :, None], x.clamp(max=width - 1)[:, None, :]
    values = cells[image[:, None, None], y, x]  # (K, h, w, C)
    better = covered[:, :, :, None] & ((values > best) | (winner < 0))
    index = (y * width + x)[:, :, :, None]
    return torch.where(better, values, best), torch.where(better, index, winner)


def roi_pool_reference(
    input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float
) -> Tensor:
    """(K, C, height, width); see :func:`detectron2.ops.roi_pool`."""
    rois = rois.float() if rois.dtype in (torch.float16, torch.bfloat16) else rois
    x0, y0, x1, y1 = round_half_away(rois[:, 1:] * spatial_scale).unbind(1)
    image = rois[:, 0].to(torch.int64)
    rows = bin_edges(y0, y1, height, input.shape[2])
    columns = bin_edges(x0, x1, width, input.shape[3])
    cells = input.permute(0, 2, 3, 1)
    with torch.no_grad():
        winner = winning_cells(cells.detach(), image, *rows, *columns)  # (K, h, w, C)
    cells = cells.flatten(1, 2)  # (N, H * W, C)
    channel = torch.arange(input.shape[1], device=input.device)
    values = cells[image[:, None, None, None], winner.clamp(min=0), channel]
    return torch.where(winner >= 0, values, 0).permute(0, 3, 1, 2)
