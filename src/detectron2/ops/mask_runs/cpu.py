"""Run lengths of pasted masks on CPU: values of one column at a time, inside of the box only.

The values are those of `paste_masks`, operation by operation, so the result is the same bit for
bit. Columns, because run lengths go down the columns of an image.

Budget: 4 gathers and 12 flops for each pixel of a box, and nothing written but the text.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectron2.ops.compiled import as_array, compiled, multiply_add
from detectron2.ops.paste_masks.cpu import axis_samples
from detectron2.ops.threads import parallel_for

__all__ = ["mask_runs", "warm_up"]

Array = NDArray[Any]


@compiled()
def sample_column(near, far, right, index, fraction, values):  # type: ignore[no-untyped-def]
    """Bilinear values of one column of pixels between two columns of mask cells."""
    one = np.float32(1)
    left = one - right
    for i in range(values.shape[0]):
        cell, down = index[i], fraction[i]
        up = one - down
        value = near[cell] * (left * up)
        value = multiply_add(far[cell], right * up, value)
        value = multiply_add(near[cell + 1], left * down, value)
        values[i] = multiply_add(far[cell + 1], right * down, value)


@compiled()
def append_run(runs, count, length):  # type: ignore[no-untyped-def]
    """Put a length at the end; the array, twice as long if it was full."""
    if count == runs.shape[0]:
        longer = np.empty(2 * count, np.int64)
        longer[:count] = runs
        runs = longer
    runs[count] = length
    return runs


@compiled()
def add_column(column, threshold, offset, runs, count, begin, stop):  # type: ignore[no-untyped-def]
    """Continue the run lengths of a mask by a column of values.

    Args:
        offset: position of the column's first pixel among all pixels.
        runs, count: what is written so far.
        begin, stop: the latest run of ones, which is not written yet: a next one may touch it.
    """
    y, length = 0, column.shape[0]
    while True:
        while y < length and not column[y] >= threshold:
            y += 1
        if y == length:
            return runs, count, begin, stop
        start = offset + y
        while y < length and column[y] >= threshold:
            y += 1
        if start != stop or stop == begin:
            if stop > begin:
                runs = append_run(runs, count + 1, stop - begin)
                count += 2
            runs = append_run(runs, count, start - stop)
            begin = start
        stop = offset + y


@compiled()
def compress(runs, count, text, end):  # type: ignore[no-untyped-def]
    """Write COCO's text of run lengths from `end` on: the array, perhaps longer, and its end."""
    if end + 8 * count > text.shape[0]:  # 5 bits to a character, lengths below 2**35
        longer = np.empty(2 * (end + 8 * count), np.uint8)
        longer[:end] = text[:end]
        text = longer
    for position in range(count):
        rest = runs[position]
        if position > 2:
            rest -= runs[position - 2]
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != -1 if group & 16 else rest != 0
            text[end] = 48 + (group | 32 if more else group)
            end += 1
    return text, end


@compiled()
def encode(masks, boxes, height, width, threshold, ends, areas):  # type: ignore[no-untyped-def]
    """Texts of N masks one after the other; where each ends and its area are written."""
    rows, columns = masks.shape[1], masks.shape[2]
    padded = np.zeros((columns + 2, rows + 2), np.float32)
    y_index, y_fraction = np.empty(height, np.int32), np.empty(height, np.float32)
    x_index, x_fraction = np.empty(width, np.int32), np.empty(width, np.float32)
    values = np.empty(height, np.float32)
    runs = np.empty(256, np.int64)
    text, end = np.empty(256 * masks.shape[0], np.uint8), 0
    for n in range(masks.shape[0]):
        padded[1:-1, 1:-1] = masks[n].T
        top, bottom = axis_samples(boxes[n, 1], boxes[n, 3], height, rows, y_index, y_fraction)
        left, right = axis_samples(boxes[n, 0], boxes[n, 2], width, columns, x_index, x_fraction)
        count, begin, stop = 0, 0, 0
        for x in range(left, right):
            cell = x_index[x]
            column = values[top:bottom]
            sample_column(
                padded[cell], padded[cell + 1], x_fraction[x],
                y_index[top:bottom], y_fraction[top:bottom], column,
            )  # fmt: skip
            runs, count, begin, stop = add_column(
                column, threshold, x * height + top, runs, count, begin, stop
            )
        if stop > begin:
            runs = append_run(runs, count + 1, stop - begin)
            count += 2
        if count == 0 or stop < height * width:
            runs = append_run(runs, count, height * width - stop)
            count += 1
        text, end = compress(runs, count, text, end)
        ends[n] = end
        areas[n] = runs[1:count:2].sum()
    return text[:end]


def mask_runs(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The Numba version of :func:`detectron2.ops.mask_runs`, as its reference returns it."""
    values, sides = as_array(masks, torch.float32), as_array(boxes, torch.float32)
    ends, areas = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    limit = np.float32(threshold)
    texts: list[tuple[int, int, Array]] = []

    def work(start: int, stop: int) -> None:
        part = slice(start, stop)
        text = encode(values[part], sides[part], height, width, limit, ends[part], areas[part])
        texts.append((start, stop, text))

    parallel_for(work, len(values), 8)
    texts.sort(key=lambda block: block[0])
    written = 0
    for start, stop, text in texts:
        ends[start:stop] += written
        written += len(text)
    characters = np.concatenate([np.zeros(0, np.uint8), *(text for _, _, text in texts)])
    return torch.from_numpy(characters), torch.from_numpy(ends), torch.from_numpy(areas)


def warm_up() -> None:
    """Compile."""
    mask_runs(torch.ones(1, 2, 2), torch.tensor([[0.0, 0.0, 2.0, 2.0]]), 3, 3, 0.5)
