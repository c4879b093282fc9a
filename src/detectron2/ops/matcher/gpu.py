"""Matching on GPU: one program per block of columns, which walks down the rows.

Budget: 4 M N bytes read, 9 N written; for low-quality matches the matrix is read once more. The
highest quality of a row is an atomic maximum, which any order gives alike.

Not measured yet: it has run in Triton's interpreter, and compiles for NVIDIA and AMD.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.launching import EXACT, device_of
from detectron2.ops.matcher.reference import bounds

__all__ = ["matcher"]

COLUMNS = 256


@triton.jit(do_not_specialize=["rows", "columns"])
def match_columns(
    quality, thresholds, labels, matches, match_labels, tops, rows, columns,
    INTERVALS: tl.constexpr, LOW_QUALITY: tl.constexpr, COLUMNS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Matches and labels; with LOW_QUALITY also the highest quality `tops` (rows,) of each row.

    Args:
        thresholds: (INTERVALS - 1,); labels: (INTERVALS,).
        tops: zeros.
    """
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < columns
    best = tl.load(quality + column, mask=exists, other=0.0)
    match = tl.zeros((COLUMNS,), tl.int64)
    for row in range(rows):
        value = tl.load(quality + row * columns.to(tl.int64) + column, mask=exists, other=0.0)
        higher = value > best
        best = tl.where(higher, value, best)
        match = tl.where(higher, row, match)
        if LOW_QUALITY:
            tl.atomic_max(tops + row, tl.max(value, axis=0))
    label = tl.zeros((COLUMNS,), tl.int8) + tl.load(labels)
    for index in tl.static_range(1, INTERVALS):
        reached = best >= tl.load(thresholds + index - 1)
        label = tl.where(reached, tl.load(labels + index), label)
    tl.store(matches + column, match, mask=exists)
    tl.store(match_labels + column, label, mask=exists)


@triton.jit(do_not_specialize=["rows", "columns"])
def label_reached(quality, tops, match_labels, rows, columns, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Label 1 where a row reaches its highest quality."""
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < columns
    reached = column < 0
    for row in range(rows):
        value = tl.load(quality + row * columns.to(tl.int64) + column, mask=exists, other=-1.0)
        reached = reached | (value == tl.load(tops + row))
    tl.store(match_labels + column, tl.full((COLUMNS,), 1, tl.int8), mask=exists & reached)


def matcher(
    quality: Tensor, thresholds: Sequence[float], labels: Sequence[int], low_quality: bool
) -> tuple[Tensor, Tensor]:
    """The Triton version of :func:`detectron2.ops.matcher`."""
    limits = bounds(thresholds, quality.dtype)
    matrix = quality.detach().to(compute_dtype(quality.dtype)).contiguous()
    rows, columns = matrix.shape
    matches = torch.zeros(columns, dtype=torch.int64, device=quality.device)
    match_labels = torch.full((columns,), labels[0], dtype=torch.int8, device=quality.device)
    if matrix.numel() == 0:
        return matches, match_labels
    tops = matrix.new_zeros(rows)
    grid = (triton.cdiv(columns, COLUMNS),)
    with device_of(matrix):
        match_columns[grid](
            matrix, on_device(limits, tops), on_device(labels, match_labels), matches,
            match_labels, tops, rows, columns,
            INTERVALS=len(labels), LOW_QUALITY=low_quality, COLUMNS=COLUMNS, **EXACT,
        )  # fmt: skip
        if low_quality:
            label_reached[grid](matrix, tops, match_labels, rows, columns, COLUMNS=COLUMNS, **EXACT)
    return matches, match_labels


def on_device(values: Sequence[float], like: Tensor) -> Tensor:
    """The values in the dtype and on the device of a tensor, without waiting for the device."""
    host = torch.tensor(list(values), dtype=like.dtype, pin_memory=like.is_cuda)
    return host.to(like.device, non_blocking=True)
