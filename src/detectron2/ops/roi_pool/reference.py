"""ROI max pooling (Fast R-CNN, https://arxiv.org/abs/1504.08083, section 2.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.loops import scripted

__all__ = ["edges_of_bins", "roi_pool_backward_reference", "roi_pool_reference"]


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


def edges_of_bins(
    rois: Tensor, bins: Sequence[int], spatial_scale: float, size: Sequence[int]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rows and columns of the bins of (K, 5) boxes on a map of `size`, see `bin_edges`."""
    rois = rois.to(compute_dtype(rois.dtype))
    x0, y0, x1, y1 = round_half_away(rois[:, 1:] * spatial_scale).unbind(1)
    return bin_edges(y0, y1, bins[0], size[0]), bin_edges(x0, x1, bins[1], size[1])


def winners(input: Tensor, rois: Tensor, bins: Sequence[int], spatial_scale: float) -> Tensor:
    """(K, h, w, C) flat index of the largest cell of every bin, -1 if it has no cells."""
    rows, columns = edges_of_bins(rois, bins, spatial_scale, input.shape[2:])
    cells = input.detach().permute(0, 2, 3, 1)
    return winning_cells(cells, rois[:, 0].to(torch.int64), *rows, *columns)


def roi_pool_reference(
    input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float
) -> Tensor:
    """(K, C, height, width); see :func:`detectron2.ops.roi_pool`."""
    winner = winners(input, rois, (height, width), spatial_scale)
    cells = input.permute(0, 2, 3, 1).flatten(1, 2)  # (N, H * W, C)
    image = rois[:, 0].to(torch.int64)[:, None, None, None]
    channel = torch.arange(input.shape[1], device=input.device)
    values = torch.where(winner >= 0, cells[image, winner.clamp(min=0), channel], 0)
    memory_format = format_of(is_channels_last(input))
    return values.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)


def roi_pool_backward_reference(
    grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float
) -> Tensor:
    """Gradient of :func:`roi_pool_reference` in `input`, written out."""
    images, channels, height, width = input.shape
    winner = winners(input, rois, grad.shape[2:], spatial_scale)
    real = compute_dtype(grad.dtype)
    share = torch.where(winner >= 0, grad.to(real).permute(0, 2, 3, 1), 0)  # (K, h, w, C)
    cell = rois[:, 0].to(torch.int64)[:, None, None, None] * (height * width) + winner.clamp(min=0)
    index = cell * channels + torch.arange(channels, device=input.device)
    total = share.new_zeros(images * height * width * channels)
    total = total.index_add(0, index.flatten(), share.flatten())
    result = total.reshape(images, height, width, channels).permute(0, 3, 1, 2).to(grad.dtype)
    return result.contiguous(memory_format=format_of(is_channels_last(input)))
