"""Matching on CPU: the matrix is read once, in blocks of columns that stay in cache.

Budget: 4 M N bytes read, 9 N written. For low-quality matches, blocks of columns in which an
element reaches its highest quality are read again; the reference reads the matrix four times
and writes M N booleans. Measured on two cores (Xeon, AVX-512), 20 x 217413 with low-quality
matches: 9.5 ms, the reference 97, torchvision's matcher 113 (benchmarks/ops/matcher.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.compiled import as_array, compiled
from detectron2.ops.matcher.reference import bounds
from detectron2.ops.threads import parallel_for

__all__ = ["matcher", "warm_up"]

Array = NDArray[Any]

COLUMNS_PER_CALL = 4096
LANES = 16


@compiled()
def highest(values, lanes):  # type: ignore[no-untyped-def]
    """The highest of some values; `lanes` (LANES,) is written.

    Lane by lane, so that LLVM vectorises it without being allowed to disregard NaN.
    """
    lanes[:] = values[0]
    whole = values.shape[0] // LANES * LANES
    for first in range(0, whole, LANES):
        for lane in range(LANES):
            value = values[first + lane]
            lanes[lane] = value if value > lanes[lane] else lanes[lane]
    best = lanes[0]
    for value in lanes:
        best = max(best, value)
    for value in values[whole:]:
        best = max(best, value)
    return best


@compiled()
def improve(values, row, best, matches):  # type: ignore[no-untyped-def]
    """Where `values` are higher than `best`, put them there, and `row` into `matches`."""
    for n in range(values.shape[0]):
        higher = values[n] > best[n]
        best[n] = values[n] if higher else best[n]
        matches[n] = row if higher else matches[n]


@compiled()
def match_columns(quality, thresholds, labels, matches, match_labels, tops, start, stop):  # type: ignore[no-untyped-def]
    """Matches and labels of the columns [start, stop).

    Args:
        quality: (M, N).
        tops: (M,) highest quality of each row within the columns, written unless it is empty.
    """
    best = quality[0, start:stop].copy()
    lanes = np.empty(LANES, quality.dtype)
    rows = np.zeros(stop - start, np.int32)
    for row in range(1, quality.shape[0]):
        improve(quality[row, start:stop], np.int32(row), best, rows)
    for row in range(tops.shape[0]):
        tops[row] = highest(quality[row, start:stop], lanes)
    for n in range(stop - start):
        matches[start + n] = rows[n]
        label = labels[0]
        for index in range(thresholds.shape[0]):
            label = labels[index + 1] if best[n] >= thresholds[index] else label
        match_labels[start + n] = label


@compiled()
def label_reached(quality, tops, tops_of_block, match_labels, start, stop):  # type: ignore[no-untyped-def]
    """Label 1 where a row reaches its highest quality (M,), in the columns [start, stop)."""
    for row in range(quality.shape[0]):
        if tops_of_block[row] == tops[row]:
            for n in range(start, stop):
                if quality[row, n] == tops[row]:
                    match_labels[n] = 1


def matcher(
    quality: Tensor, thresholds: Sequence[float], labels: Sequence[int], low_quality: bool
) -> tuple[Tensor, Tensor]:
    """The Numba version of :func:`detectron2.ops.matcher`."""
    real = compute_dtype(quality.dtype)
    matrix = as_array(quality, real)
    rows, columns = matrix.shape
    if matrix.size == 0:
        empty = torch.zeros(columns, dtype=torch.int64)
        return empty, torch.full((columns,), labels[0], dtype=torch.int8)
    limits = np.array(bounds(thresholds, quality.dtype), matrix.dtype)
    values = np.array(labels, np.int8)
    matches, match_labels = np.empty(columns, np.int64), np.empty(columns, np.int8)
    blocks = -(-columns // COLUMNS_PER_CALL)
    tops = np.empty((blocks, rows if low_quality else 0), matrix.dtype)

    def match(start: int, stop: int) -> None:
        for block in range(start, stop):
            first = block * COLUMNS_PER_CALL
            last = min(columns, first + COLUMNS_PER_CALL)
            match_columns(matrix, limits, values, matches, match_labels, tops[block], first, last)

    parallel_for(match, blocks, 1)
    if low_quality:
        top = tops.max(axis=0)
        for block in np.flatnonzero((tops == top).any(axis=1)).tolist():
            first = block * COLUMNS_PER_CALL
            last = min(columns, first + COLUMNS_PER_CALL)
            label_reached(matrix, top, tops[block], match_labels, first, last)
    return torch.from_numpy(matches), torch.from_numpy(match_labels)


def warm_up() -> None:
    """Compile for float32."""
    matcher(torch.zeros(1, 2), [0.5], [0, 1], True)
