"""ROIAlign of rotated boxes on CPU, as channels-last loops for Numba.

Samples of a rotated box share no rows or columns of cells, so every sample reads its four
cells: 4 C multiply-adds each, in vectors over the channels whose sums stay in registers.

Budget for 1000 boxes of 7 x 7 bins, 256 channels, 2 x 2 samples, float32: 0.8 GB of reads,
mostly from cache, and 0.4 GFLOP. Measured on one core (Xeon, AVX-512), channels-last, processor
time: 29 ms, 6 of which to find the cells; 57 with sums in memory, of which 19 to find the cells by
functions that Numba did not inline (benchmarks/ops/roi_align_rotated.py).
"""

import numpy as np

from detectron2.ops.compiled import compiled
from detectron2.ops.lanes import add_scaled, no_lanes, store_lanes

__all__ = ["backward", "forward"]

# Channels that are summed at once: two registers of AVX-512, and what is left of them.
MANY, FEW = 32, 8

# Four cells of 64 samples at a time: a bin of a large box may have millions.
ENTRIES = 256


@compiled()
def samples_per_bin(side, bins, ratio):  # type: ignore[no-untyped-def]
    """Samples of a bin along one axis of a box; 0 if its side is not a positive number."""
    if ratio > 0:
        return ratio
    return int(np.ceil(side / bins)) if np.isfinite(side) and side > 0 else 0


@compiled()
def visited(start, bin_side, samples, low, high):  # type: ignore[no-untyped-def]
    """Range of the samples of a bin that can lie between `low` and `high`, along one axis."""
    step = np.float64(bin_side) / samples
    first = min(max((low - start) / step - 2.0, 0.0), float(samples))
    last = min(max((high - start) / step + 2.0, 0.0), float(samples))
    return int(first), int(last)


@compiled()
def reach_of_map(box, size):  # type: ignore[no-untyped-def]
    """Where the map lies in the frame of a box: (top, bottom, left, right), not too small."""
    down, across = size[0] / 2 - box[0], size[1] / 2 - box[1]
    radius = np.hypot(size[0] / 2 + 2, size[1] / 2 + 2)
    y, x = down * box[4] + across * box[5], across * box[4] - down * box[5]
    return y - radius, y + radius, x - radius, x + radius


@compiled(inlined=True)
def offset(side, bin_side, samples, index, sample):  # type: ignore[no-untyped-def]
    """How far a sample of bin `index` lies from the center of a box, along one of its axes.

    Not fused, and in the order of the reference: at the border the result is discontinuous.
    """
    real = type(side)
    start = -side / real(2) + real(index) * bin_side
    return start + (real(sample) + real(0.5)) * bin_side / real(samples)


@compiled(inlined=True)
def write_corners(y, x, size, scale, cells, weights, at):  # type: ignore[no-untyped-def]
    """The four cells around a position and their weights; how many, 0 if it is off the map."""
    real = weights.dtype.type
    if not (y >= -1 and y <= size[0] and x >= -1 and x <= size[1]):
        return 0
    y = min(max(y, real(0)), real(size[0] - 1))
    x = min(max(x, real(0)), real(size[1] - 1))
    top, left = int(y), int(x)
    below = size[1] if top + 1 < size[0] else 0
    beside = 1 if left + 1 < size[1] else 0
    down, across = y - real(top), x - real(left)
    up, back = scale * (real(1) - down), real(1) - across
    down = scale * down
    first = top * size[1] + left
    cells[at], weights[at] = first, up * back
    cells[at + 1], weights[at + 1] = first + beside, up * across
    cells[at + 2], weights[at + 2] = first + below, down * back
    cells[at + 3], weights[at + 3] = first + below + beside, down * across
    return 4


@compiled()
def gather_samples(box, size, samples, sides, i, j, begin, scale, cells, weights):  # type: ignore[no-untyped-def]
    """Write which cells the samples of bin (i, j) read and their weights, as many as fit.

    Args:
        box, size: as in :func:`forward`.
        samples, sides: of :func:`bins_of`.
        begin: the number of the first sample, 0 at first.
        scale: what the weights are multiplied with.
        cells, weights: (ENTRIES,), written.

    Returns:
        How many entries were written, and the number of the next sample, -1 after the last.
    """
    a_first, a_last, b_first, b_last = 0, samples[0], 0, samples[1]
    if max(samples) > 64:  # most of them may be off the map
        reach = reach_of_map(box, size)
        y_start, x_start = -box[2] / 2 + i * sides[0], -box[3] / 2 + j * sides[1]
        a_first, a_last = visited(y_start, sides[0], samples[0], reach[0], reach[1])
        b_first, b_last = visited(x_start, sides[1], samples[1], reach[2], reach[3])
    columns, count = b_last - b_first, 0
    for number in range(begin, (a_last - a_first) * columns):
        if count == ENTRIES:
            return count, number
        row = number // columns
        down = offset(box[2], sides[0], samples[0], i, a_first + row)
        across = offset(box[3], sides[1], samples[1], j, b_first + number - row * columns)
        y = down * box[4] - across * box[5] + box[0]
        x = down * box[5] + across * box[4] + box[1]
        count += write_corners(y, x, size, scale, cells, weights, count)
    return count, -1


@compiled(fused=True, inlined=True)
def add_lanes(zeros, target, at, flat, first, channels, cells, weights):  # type: ignore[no-untyped-def]
    """target[at :] += weighted sum of the runs of channels that begin at `first` in each cell."""
    total = add_scaled(zeros, target, at, weights.dtype.type(1))
    for n in range(len(cells)):
        total = add_scaled(total, flat, first + cells[n] * channels, weights[n])
    store_lanes(total, target, at)


@compiled(fused=True, inlined=True)
def add_cells(target, at, flat, first, channels, cells, weights):  # type: ignore[no-untyped-def]
    """target[at : at + C] += weighted sum of cells, of the map that begins at `first` in flat."""
    done = 0
    while done + MANY <= channels:
        zeros = no_lanes(flat, MANY)
        add_lanes(zeros, target, at + done, flat, first + done, channels, cells, weights)
        done += MANY
    while done + FEW <= channels:
        few = no_lanes(flat, FEW)
        add_lanes(few, target, at + done, flat, first + done, channels, cells, weights)
        done += FEW
    while done < channels:
        one = no_lanes(flat, 1)
        add_lanes(one, target, at + done, flat, first + done, channels, cells, weights)
        done += 1


@compiled()
def bins_of(box, bins, ratio, real):  # type: ignore[no-untyped-def]
    """Samples per bin and sides of a bin of a box, both (down, across)."""
    samples = (
        samples_per_bin(box[2], real(bins[0]), ratio),
        samples_per_bin(box[3], real(bins[1]), ratio),
    )
    return samples, (box[2] / real(bins[0]), box[3] / real(bins[1]))


@compiled()
def scale_of(samples, real):  # type: ignore[no-untyped-def]
    """What a sample counts in the average of its bin."""
    return real(1) / real(max(samples[0] * samples[1], 1))


@compiled(fused=True)
def forward(features, size, images, boxes, order, bins, ratio, output, last, start, stop):  # type: ignore[no-untyped-def]
    """Pool the boxes order[start:stop].

    Args:
        features: (N, P, C), the cells of maps of `size` (H, W); uint16 are bits of bfloat16.
        images: (K,) int64.
        boxes: (K, 6) rows of center y, center x, height, width, cosine and sine, in cells.
        bins: (h, w).
        output: (K, h * w, C) if `last`, else (K, C, h * w); zeros.
    """
    channels, bin_count = features.shape[2], bins[0] * bins[1]
    flat, real = features.reshape(-1), boxes.dtype.type
    cells, weights = np.empty(ENTRIES, np.int64), np.empty(ENTRIES, boxes.dtype)
    tile = np.empty(bin_count * channels, boxes.dtype)
    target = output.reshape(-1) if last else tile
    for index in range(start, stop):
        k = order[index]
        samples, sides = bins_of(boxes[k], bins, ratio, real)
        scale, first = scale_of(samples, real), images[k] * features.shape[1] * channels
        tile[:] = 0
        for cell in range(bin_count):
            i, j, begin = cell // bins[1], cell % bins[1], 0
            at = (k * bin_count + cell if last else cell) * channels
            while begin >= 0:
                count, begin = gather_samples(
                    boxes[k], size, samples, sides, i, j, begin, scale, cells, weights
                )
                add_cells(target, at, flat, first, channels, cells[:count], weights[:count])
        if not last:
            for channel in range(channels):
                for cell in range(bin_count):
                    output[k, channel, cell] = tile[cell * channels + channel]


@compiled(fused=True)
def backward(gradient, size, images, boxes, order, bins, ratio, grad, last, start, stop):  # type: ignore[no-untyped-def]
    """Add the gradients of all boxes `order` to the channels [start, stop) of the map.

    Args:
        gradient: (N, P, C), added to.
        grad: (K, h * w, C) if `last`, else (K, C, h * w).
        others: as in :func:`forward`.
    """
    real = boxes.dtype.type
    cells, weights = np.empty(ENTRIES, np.int64), np.empty(ENTRIES, boxes.dtype)
    share = np.empty(stop - start, gradient.dtype)
    for k in order:
        samples, sides = bins_of(boxes[k], bins, ratio, real)
        scale = scale_of(samples, real)
        for cell in range(bins[0] * bins[1]):
            for c in range(stop - start):
                share[c] = grad[k, cell, start + c] if last else grad[k, start + c, cell]
            i, j, begin = cell // bins[1], cell % bins[1], 0
            while begin >= 0:
                count, begin = gather_samples(
                    boxes[k], size, samples, sides, i, j, begin, scale, cells, weights
                )
                for n in range(count):
                    target = gradient[images[k], cells[n], start:stop]
                    for c in range(stop - start):
                        target[c] += weights[n] * share[c]
