"""Which cells the bins of boxes read, and by what weights: the same for every channel."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectron2.ops.compiled import compiled
from detectron2.ops.threads import parallel_for

__all__ = ["sampling_tables"]

Array = NDArray[Any]

BOXES_PER_CALL = 64


@compiled()
def axis_cells(start, side, bins, ratio, length, cells, weights, counts):  # type: ignore[no-untyped-def]
    """Cells along one axis that each bin reads, and their weights.

    In the type of the boxes and not fused: the number of samples and their positions must
    round as in the reference, because at the border of the map the result is discontinuous.

    Args:
        start, side: of the box, in cells.
        ratio: samples per bin; 0 or less takes ceil(side / bins).
        length: cells of the map.
        cells, weights: (bins, capacity), written.
        counts: (bins,) entries of `cells` per bin, written.

    Returns:
        Samples per bin, 0 if the box has no samples.
    """
    real = weights.dtype.type
    bin_side = side / real(bins)
    samples = ratio
    if ratio <= 0:
        samples = int(np.ceil(bin_side)) if np.isfinite(side) and side > 0 else 0
    for index in range(bins):
        bin_start = start + real(index) * bin_side
        first, last = 0, samples
        if samples > 2 * length:
            # A bin far larger than the map: look only at samples that can be on it.
            step = bin_side / real(samples)
            first = int(min(max((-1.0 - bin_start) / step - 2.0, 0.0), float(samples)))
            last = int(min(max((length - bin_start) / step + 2.0, 0.0), float(samples)))
        count = 0
        for sample in range(first, last):
            position = bin_start + (real(sample) + real(0.5)) * bin_side / real(samples)
            if not (position >= real(-1) and position <= real(length)):
                continue
            position = min(max(position, real(0)), real(length - 1))
            low = int(position)
            fraction = position - real(low)
            high = min(low + 1, length - 1)
            for cell, weight in ((low, real(1) - fraction), (high, fraction)):
                if count > 0 and cells[index, count - 1] == cell:
                    weights[index, count - 1] += weight
                elif count > 1 and cells[index, count - 2] == cell:
                    weights[index, count - 2] += weight
                else:
                    cells[index, count] = cell
                    weights[index, count] = weight
                    count += 1
        counts[index] = count
    return samples


@compiled()
def fill(boxes, size, bins, ratio, tables, start, stop):  # type: ignore[no-untyped-def]
    """Write what :func:`sampling_tables` describes for the boxes [start, stop)."""
    starts, capacities, cells, weights, counts, scales = tables
    real = weights.dtype.type
    for k in range(start, stop):
        first, samples = starts[k], 1
        for axis in range(2):
            shape = (bins[axis], capacities[k, axis])
            stop_axis = first + shape[0] * shape[1]
            begin = 0 if axis == 0 else bins[0]
            samples *= axis_cells(
                boxes[k, axis],
                boxes[k, 2 + axis],
                bins[axis],
                ratio,
                size[axis],
                cells[first:stop_axis].reshape(shape),
                weights[first:stop_axis].reshape(shape),
                counts[k, begin : begin + bins[axis]],
            )
            first = stop_axis
        scales[k] = real(1) / real(max(samples, 1))


def capacities_of(boxes: Array, size: tuple[int, int], bins: tuple[int, int], ratio: int) -> Array:
    """(K, 2) most cells that a bin of each box reads, down and across."""
    if ratio > 0:
        return np.full((len(boxes), 2), 2 * ratio, np.int64)
    sides = boxes[:, 2:]
    usable = np.isfinite(sides) & (sides > 0)
    # In the type of the boxes, as the kernel rounds. Positions only grow, so that no cell of the
    # map is listed twice.
    samples = np.ceil(np.where(usable, sides, 0) / np.array(bins, boxes.dtype))
    return np.minimum(2 * samples, np.array(size)).astype(np.int64)


def sampling_tables(
    boxes: Array, size: tuple[int, int], bins: tuple[int, int], ratio: int
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Cells and weights of the bins of boxes, for :func:`detectron2.ops.roi_align.kernels.forward`.

    Args:
        boxes: (K, 4) rows of y0, x0, height and width in cells.
        size: (H, W) of the map.
        bins: (h, w) of the output.
        ratio: samples per bin and axis; 0 or less takes ceil(side / bins).

    Returns:
        starts: (K,) where the entries of a box begin: first h times those of a bin down, then w
            times those of a bin across.
        capacities: (K, 2) entries of a bin, down and across.
        cells: (entries,) row, or column, of the map.
        weights: (entries,) what it is multiplied with.
        counts: (K, h + w) how many entries of each bin are in use.
        scales: (K,) 1 / samples of a bin.
    """
    capacities = capacities_of(boxes, size, bins, ratio)
    entries = capacities @ np.array(bins)
    starts = np.cumsum(entries) - entries
    total = int(entries.sum())
    tables = (
        starts,
        capacities,
        np.empty(total, np.int64),
        np.empty(total, boxes.dtype),
        np.zeros((len(boxes), sum(bins)), np.int64),
        np.empty(len(boxes), boxes.dtype),
    )
    parallel_for(
        lambda start, stop: fill(boxes, size, bins, ratio, tables, start, stop),
        len(boxes),
        BOXES_PER_CALL,
    )
    return tables
