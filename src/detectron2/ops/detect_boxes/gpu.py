"""Final detections on GPU: one kernel decodes, clips and filters, a sort, one kernel suppresses.

Budget: deltas and scores are read once (the deltas twice, the second time from cache), boxes
and masked scores written once: 44 bytes for each row and class. PyTorch reads and writes them
about thirty times for the same steps, in as many launches, and waits three times for the host.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from detectron2.ops.detect_boxes.reference import (
    Found,
    detect_boxes_reference,
    empty_results,
    in_dtype,
    results_at,
)
from detectron2.ops.launching import EXACT, device_of, divide
from detectron2.ops.nms.reference import threshold_below
from detectron2.ops.nms_topk.gpu import MAX_PLACES, pick

__all__ = ["detect_boxes"]

BLOCK, WARPS = 128, 1


@triton.jit
def exponential(x, ON_GPU: tl.constexpr):  # type: ignore[no-untyped-def]
    # Triton's own is an approximation; this one is what PyTorch calls. The interpreter lacks it.
    if ON_GPU:
        return libdevice.exp(x)
    else:
        return tl.exp(x)


@triton.jit
def without_weight(delta, weight, ON_GPU: tl.constexpr):  # type: ignore[no-untyped-def]
    # On a GPU PyTorch multiplies with the reciprocal of a number that it divides by.
    if ON_GPU:
        return delta * divide(weight * 0 + 1.0, weight)
    else:
        return divide(delta, weight)


@triton.jit
def is_finite(x):  # type: ignore[no-untyped-def]
    return tl.abs(x) < float("inf")


@triton.jit
def side(delta, offset_delta, low, high, weight, offset_weight, clamp, ON_GPU: tl.constexpr):  # type: ignore[no-untyped-def]
    """The two ends of one side of a box, not clipped."""
    length = high - low
    moved = without_weight(offset_delta, offset_weight, ON_GPU) * length + (low + 0.5 * length)
    growth = without_weight(delta, weight, ON_GPU)
    growth = tl.where(growth > clamp, clamp, growth)  # a NaN stays one
    half = 0.5 * length * exponential(growth, ON_GPU)
    return moved - half, moved + half


@triton.jit(do_not_specialize=["rows", "columns", "classes"])
def decode_row(
    deltas, proposals, scores, usable, sizes, corners, table, flags, rows, columns, classes,
    weight_x, weight_y, weight_w, weight_h, clamp, threshold,
    ON_GPU: tl.constexpr, BLOCK: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """All boxes and scores of one row: corners (., columns, 4), table and flags (., classes)."""
    row = tl.program_id(0).to(tl.int64)
    image = row // rows
    height = tl.load(sizes + image * 2).to(tl.float32)
    width = tl.load(sizes + image * 2 + 1).to(tl.float32)
    lane = tl.arange(0, BLOCK)
    proposals += row * 4
    left, top = tl.load(proposals).to(tl.float32), tl.load(proposals + 1).to(tl.float32)
    right, bottom = tl.load(proposals + 2).to(tl.float32), tl.load(proposals + 3).to(tl.float32)
    wrong = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, columns, BLOCK):
        exists = first + lane < columns
        box = (row * columns + first + lane) * 4
        dx = tl.load(deltas + box, mask=exists, other=0.0).to(tl.float32)
        dy = tl.load(deltas + box + 1, mask=exists, other=0.0).to(tl.float32)
        dw = tl.load(deltas + box + 2, mask=exists, other=0.0).to(tl.float32)
        dh = tl.load(deltas + box + 3, mask=exists, other=0.0).to(tl.float32)
        x0, x1 = side(dw, dx, left, right, weight_w, weight_x, clamp, ON_GPU)
        y0, y1 = side(dh, dy, top, bottom, weight_h, weight_y, clamp, ON_GPU)
        finite = is_finite(x0) & is_finite(y0) & is_finite(x1) & is_finite(y1)
        wrong = wrong | (exists & (finite == 0)).to(tl.int32)
        tl.store(corners + box, tl.minimum(tl.maximum(x0, 0.0), width), mask=exists)
        tl.store(corners + box + 1, tl.minimum(tl.maximum(y0, 0.0), height), mask=exists)
        tl.store(corners + box + 2, tl.minimum(tl.maximum(x1, 0.0), width), mask=exists)
        tl.store(corners + box + 3, tl.minimum(tl.maximum(y1, 0.0), height), mask=exists)
    row_counts = (tl.load(usable + row) != 0) & (tl.sum(wrong, axis=0) == 0)
    for first in range(0, classes, BLOCK):
        exists = first + lane < classes
        place = row * classes + first + lane
        score = tl.load(scores + place, mask=exists, other=0.0).to(tl.float32)
        counts = row_counts & (score > threshold)
        tl.store(table + place, tl.where(counts, score, float("-inf")), mask=exists)
        tl.store(flags + place, counts, mask=exists)


def detect_boxes(
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
    """The Triton version of :func:`detectron2.ops.detect_boxes`."""
    in_double = torch.float64 in (deltas.dtype, proposals.dtype, scores.dtype)
    if in_double or topk > MAX_PLACES:
        return detect_boxes_reference(
            deltas, proposals, scores, usable, image_sizes, weights, scale_clamp,
            score_threshold, iou_threshold, topk,
        )  # fmt: skip
    images, rows, classes = scores.shape
    boxes_of_row = deltas.shape[2] // 4
    corners = torch.empty(images, rows * boxes_of_row, 4, device=deltas.device)
    if images * rows * classes == 0:
        return empty_results(corners, scores, topk)
    table = torch.empty(images, rows * classes, device=deltas.device)
    flags = torch.empty_like(table, dtype=torch.bool)
    with device_of(deltas):
        decode_row[(images * rows,)](
            deltas.contiguous(), proposals.contiguous(), scores.contiguous(), usable.contiguous(),
            image_sizes.contiguous(), corners, table, flags, rows, boxes_of_row, classes,
            *weights, scale_clamp, in_dtype(score_threshold, scores.dtype),
            ON_GPU=deltas.is_cuda, BLOCK=BLOCK, num_warps=WARPS, **EXACT,
        )  # fmt: skip
    order = table.sort(dim=1, descending=True, stable=True).indices
    threshold = threshold_below(iou_threshold, torch.float32)
    picked, counts = pick(corners, None, flags, order, classes, threshold, topk)
    return results_at(picked, counts, corners, scores)
