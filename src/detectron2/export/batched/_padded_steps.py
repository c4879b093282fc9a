"""Steps of detectors whose every tensor has a fixed shape, for runtimes that plan memory ahead.

Where the other forms choose rows, these keep all and mark those that do not count by a score of
`NO_SCORE`. They use no sorting but `topk`, and no loop but `scan`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detectron2.modeling.poolers import _ALIGNED, ROIPooler, assign_boxes_to_levels
from detectron2.ops.nms.reference import threshold_below
from detectron2.ops.roi_align.reference import boxes_in_cells
from detectron2.structures import Boxes

__all__ = ["MAX_CANDIDATES", "NO_SCORE", "best_detections", "keep_in_order", "pool_by_weights"]

NO_SCORE = -1.0e9
# Of an image that take part in the last suppression, best first.
MAX_CANDIDATES = 1000
# Boxes that are pooled at once; their rows of features lie in memory together.
_BOXES_AT_ONCE = 64


def keep_in_order(boxes: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float) -> Tensor:
    """(N, K) True for the rows that greedy suppression within each group keeps.

    Args:
        boxes: (N, K, 4), by descending score.
        groups: (N, K).
        usable: (N, K), whether a row counts.
    """
    threshold = threshold_below(iou_threshold, boxes.dtype)
    position = torch.arange(boxes.shape[1], device=boxes.device)
    later = position[:, None] < position[None, :]
    related = (groups[:, :, None] == groups[:, None, :]) & usable[:, :, None] & later
    suppresses = _overlaps(boxes, threshold) & related  # (N, earlier, later)
    return _settle(usable, suppresses)


def _overlaps(boxes: Tensor, threshold: float) -> Tensor:
    """(N, K, K) True where the IoU of two of the (N, K, 4) boxes is above the threshold."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    sides = (high - low).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    union = area[:, :, None] + area[:, None, :] - intersection
    # No division: two empty boxes overlap as little as any others.
    return intersection > union * threshold


def _settle(usable: Tensor, suppresses: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        keep = usable.clone()
        for row in range(usable.shape[1]):
            keep &= ~(suppresses[:, row] & keep[:, row : row + 1])
        return keep
    from torch._higher_order_ops.scan import scan

    def next_row(keep: Tensor, row: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        suppressed, index = row
        chosen = keep.index_select(1, index)  # (N, 1)
        return keep & ~(suppressed & chosen), chosen.clone()

    rows = torch.arange(usable.shape[1], device=usable.device)[:, None]
    keep, _ = scan(next_row, usable, (suppresses.transpose(0, 1), rows))
    return keep


def best_detections(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    iou_threshold: float,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best rows of each image after suppression within each class.

    Args:
        boxes: (N, R, 4).
        scores: (N, R), `NO_SCORE` where a row does not count.
        classes: (N, R).
        limit: at most this many of an image; all if negative.

    Returns:
        (N, K, 4) boxes, (N, K) scores and classes, by descending score.
    """
    scores, order = scores.topk(min(MAX_CANDIDATES, scores.shape[1]), dim=1)
    boxes, classes = rows_of(boxes, order), classes.gather(1, order)
    keep = keep_in_order(boxes, classes, scores > NO_SCORE / 2, iou_threshold)
    scores = torch.where(keep, scores, torch.full_like(scores, NO_SCORE))
    count = scores.shape[1] if limit < 0 else min(limit, scores.shape[1])
    scores, order = scores.topk(count, dim=1)
    return rows_of(boxes, order), scores, classes.gather(1, order)


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """Rows (N, k, B) at `index` (N, k) of (N, R, B)."""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[2]))


def pool_by_weights(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """ROIAlign as two products of matrices: (N * R, C, h, w) from (N, R, 4) boxes.

    The samples of a bin lie on a grid, and bilinear sampling is separable: averaging them is a
    product with one matrix for the rows of the map and one for its columns, whatever the number
    of samples.
    """
    flat = boxes.flatten(0, 1)
    levels = torch.zeros_like(flat[:, 0], dtype=torch.int64)
    if len(maps) > 1:
        levels = assign_boxes_to_levels(
            [Boxes(flat)],
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        )
    pooled = None
    for level, (feature, scale) in enumerate(zip(maps, pooler.scales)):
        weights = _axis_weights(pooler, feature, boxes, scale)
        rows = weights[0] * (levels == level).to(feature.dtype).view(*boxes.shape[:2], 1, 1)
        part = _weighted(feature, rows, weights[1])
        pooled = part if pooled is None else pooled + part
    assert pooled is not None, "a pooler has at least one level"
    return pooled


def _axis_weights(pooler: ROIPooler, feature: Tensor, boxes: Tensor, scale: float) -> list[Tensor]:
    """Weights (N, R, h, H) of the rows and (N, R, w, W) of the columns of a map in each bin."""
    rois = F.pad(boxes.flatten(0, 1), (1, 0))
    aligned = _ALIGNED[pooler.pooler_type]
    y0, x0, height, width = boxes_in_cells(rois, feature.dtype, scale, aligned).unbind(1)
    weights = []
    for axis, (start, side) in enumerate(((y0, height), (x0, width))):
        weight = _bin_weights(
            start, side, pooler.output_size[axis], feature.shape[2 + axis], pooler.sampling_ratio
        )
        weights.append(weight.view(*boxes.shape[:2], *weight.shape[1:]))
    return weights


def _bin_weights(start: Tensor, side: Tensor, bins: int, length: int, ratio: int) -> Tensor:
    """(K, bins, length): how much each cell of an axis counts in each bin.

    Args:
        start, side: (K,) of the boxes in cells, as `boxes_in_cells` gives them.
        ratio: samples in a bin; 0 or less for one per cell.
    """
    # A box that was clipped to its image is no longer than the map.
    most = ratio if ratio > 0 else -(-(length + 1) // bins)
    samples = torch.full_like(side, float(ratio))
    if ratio <= 0:
        samples = torch.ceil(side / bins).clamp(min=0, max=most)
    index = torch.arange(bins, device=side.device, dtype=side.dtype)[:, None]
    sample = torch.arange(most, device=side.device, dtype=side.dtype)
    step = (side / bins / samples.clamp(min=1))[:, None, None]
    first = start[:, None, None] + index * (side / bins)[:, None, None]  # (K, bins, 1)
    position = first + (sample + 0.5) * step  # (K, bins, most)
    counts = ((sample < samples[:, None, None]) & (position >= -1) & (position <= length)).to(
        side.dtype
    )
    position = position.clamp(min=0, max=length - 1)
    cell = torch.arange(length, device=side.device, dtype=side.dtype)
    near = (1 - (position[..., None] - cell).abs()).clamp(min=0)  # (K, bins, most, length)
    total = (near * counts[..., None]).sum(dim=2)
    return total / samples.clamp(min=1)[:, None, None]


def _weighted(feature: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N * R, C, h, w) of (N, C, H, W) features, (N, R, h, H) and (N, R, w, W) weights."""
    images, count, bins, _ = rows.shape
    channels, width = feature.shape[1], feature.shape[3]
    cells = feature.permute(0, 2, 3, 1).reshape(images, feature.shape[2], width * channels)
    parts = []
    for first in range(0, count, _BOXES_AT_ONCE):
        part = slice(first, min(first + _BOXES_AT_ONCE, count))
        strips = rows[:, part].flatten(1, 2).bmm(cells)  # (N, r * h, W * C)
        strips = strips.view(-1, width, channels)  # (N * r * h, W, C)
        right = columns[:, part, None].expand(-1, -1, bins, -1, -1).flatten(0, 2)
        part_sum = right.bmm(strips)  # (N * r * h, w, C)
        parts.append(part_sum.view(images, -1, bins, columns.shape[2], channels))
    return torch.cat(parts, dim=1).flatten(0, 1).permute(0, 3, 1, 2)
