"""From scores and deltas of proposals to final boxes, step by step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectron2.ops.nms.reference import batched_nms_reference

__all__ = [
    "Found",
    "clip_boxes",
    "decode_boxes",
    "detect_boxes_reference",
    "empty_results",
    "in_dtype",
    "results_at",
]

Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def decode_boxes(
    deltas: Tensor, boxes: Tensor, weights: Sequence[float], scale_clamp: float
) -> Tensor:
    """Move and scale boxes: R-CNN (Girshick et al., 2014), appendix C.

    Args:
        deltas: (..., k * 4) rows of k encodings (dx, dy, dw, dh).
        boxes: (..., 4) xyxy.
        weights: what the deltas are multiplied by.
        scale_clamp: upper bound of dw and dh.

    Returns:
        (..., k * 4) xyxy, at least float32.
    """
    real = torch.promote_types(deltas.dtype, torch.float32)
    columns = deltas.to(real).unflatten(-1, (-1, 4)).unbind(dim=-1)
    dx, dy, dw, dh = (column / weight for column, weight in zip(columns, weights, strict=True))
    left, top, right, bottom = boxes.to(real).unsqueeze(-2).unbind(dim=-1)
    w, h = right - left, bottom - top
    center_x, center_y = dx * w + (left + 0.5 * w), dy * h + (top + 0.5 * h)
    half_w = 0.5 * w * torch.exp(dw.clamp(max=scale_clamp))
    half_h = 0.5 * h * torch.exp(dh.clamp(max=scale_clamp))
    corners = (center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h)
    return torch.stack(corners, dim=-1).reshape(deltas.shape)


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """(N, B, 4) xyxy boxes inside of their images, whose (height, width) are (N, 2)."""
    limits = image_sizes.to(boxes.dtype).flip(1).repeat(1, 2)  # width, height, width, height
    return boxes.clamp(min=0).minimum(limits[:, None])


def results_at(picked: Tensor, counts: Tensor, corners: Tensor, scores: Tensor) -> Found:
    """The result of :func:`detectron2.ops.detect_boxes` at some candidates.

    Args:
        picked: (N, topk) pairs r * C + c of a row and a class.
        counts: (N,) how many of an image count.
        corners: (N, R * C, 4), or (N, R, 4) where the classes share a box.
        scores: (N, R, C).
    """
    classes = scores.shape[2]
    exists = torch.arange(picked.shape[1], device=picked.device) < counts[:, None]
    rows = torch.div(picked, max(classes, 1), rounding_mode="floor")
    of_box = rows if corners.shape[1] == scores.shape[1] else picked
    boxes = corners.gather(1, of_box[..., None].expand(-1, -1, 4))
    return (
        boxes.masked_fill(~exists[..., None], 0),
        scores.flatten(1).gather(1, picked).masked_fill(~exists, 0),
        (picked - rows * classes).masked_fill(~exists, 0),
        rows.masked_fill(~exists, 0),
        counts,
    )


def in_dtype(threshold: float, dtype: torch.dtype) -> float:
    """`threshold` as PyTorch rounds it when it compares numbers of `dtype` with it."""
    return float(torch.tensor(threshold, dtype=dtype))


def detect_boxes_reference(
    deltas: Tensor,
    proposals: Tensor,
    scores: Tensor,
    usable: Tensor,
    image_sizes: Tensor,
    weights: Sequence[float],
    scale_clamp: float,
    score_threshold: float,
    iou_threshold: float,
    topk: int,
) -> Found:
    """See :func:`detectron2.ops.detect_boxes`."""
    images, rows, classes = scores.shape
    decoded = decode_boxes(deltas, proposals, weights, scale_clamp)
    usable = usable & decoded.isfinite().all(dim=2)
    corners = clip_boxes(decoded.reshape(images, rows * (deltas.shape[2] // 4), 4), image_sizes)
    if rows * classes == 0:
        return empty_results(corners, scores, topk)
    per_class = corners.unflatten(1, (rows, -1)).expand(-1, -1, classes, -1)
    picked, counts = usable.new_zeros(images, topk, dtype=torch.int64), usable.new_zeros(images)
    counts = counts.to(torch.int64)
    for image in range(images):
        row, column = ((scores[image] > score_threshold) & usable[image, :, None]).nonzero(
            as_tuple=True
        )
        kept = batched_nms_reference(
            per_class[image, row, column], scores[image, row, column], column, iou_threshold
        )[:topk]
        picked[image, : len(kept)] = (row * classes + column)[kept]
        counts[image] = len(kept)
    return results_at(picked, counts, corners, scores)


def empty_results(corners: Tensor, scores: Tensor, topk: int) -> Found:
    """The result for images without candidates."""
    images = scores.shape[0]
    integers = torch.zeros(images, topk, dtype=torch.int64, device=scores.device)
    boxes, best = corners.new_zeros(images, topk, 4), scores.new_zeros(images, topk)
    return boxes, best, integers, integers.clone(), integers.new_zeros(images)
