"""Final detections on CPU: boxes are decoded in PyTorch, all else is one pass over the scores."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detectron2.ops.compiled import as_array, compiled
from detectron2.ops.detect_boxes.reference import (
    Found,
    clip_boxes,
    decode_boxes,
    empty_results,
    in_dtype,
    results_at,
)
from detectron2.ops.nms.reference import score_order, threshold_below
from detectron2.ops.nms_topk.cpu import pick

__all__ = ["detect_boxes", "warm_up"]


@compiled()
def find_candidates(scores, boxes, usable, threshold):  # type: ignore[no-untyped-def]
    """(D,) pairs r * C + c above the threshold, of rows (R, B) of boxes that are finite."""
    rows, classes = scores.shape
    found = np.empty(rows * classes, np.int64)
    count = 0
    for row in range(rows):
        if not usable[row]:
            continue
        # Zero times a number that is not finite is NaN.
        total = boxes.dtype.type(0)
        for value in boxes[row]:
            total += value * 0
        if total != 0:
            continue
        for column in range(classes):
            if scores[row, column] > threshold:
                found[count] = row * classes + column
                count += 1
    return found[:count]


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
    """The Numba version of :func:`detectron2.ops.detect_boxes`."""
    images, rows, classes = scores.shape
    decoded = decode_boxes(deltas, proposals, weights, scale_clamp)
    corners = clip_boxes(decoded.reshape(images, rows * (deltas.shape[2] // 4), 4), image_sizes)
    if rows * classes == 0:
        return empty_results(corners, scores, topk)
    real = corners.dtype
    threshold = as_array(corners).dtype.type(threshold_below(iou_threshold, real))
    picked, counts = torch.zeros(images, topk, dtype=torch.int64), []
    table = as_array(scores, torch.promote_types(scores.dtype, torch.float32))
    least = table.dtype.type(in_dtype(score_threshold, scores.dtype))
    for image in range(images):
        pairs = find_candidates(
            table[image], as_array(decoded[image]), as_array(usable[image]), least
        )
        order = score_order(scores[image].flatten()[torch.from_numpy(pairs)])
        box_of = pairs // classes if corners.shape[1] == rows else pairs
        places = np.zeros(topk, np.int64)
        count = pick(
            as_array(corners[image]), box_of, pairs % classes, as_array(order), threshold,
            classes, places,
        )  # fmt: skip
        picked[image, :count] = torch.from_numpy(pairs[places[:count]])
        counts.append(count)
    return results_at(picked, torch.tensor(counts, dtype=torch.int64), corners, scores)


def warm_up() -> None:
    """Compile for float32."""
    box, one = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), torch.ones(1, 1)
    arguments = (one[..., None], one.bool(), torch.ones(1, 2, dtype=torch.int64))
    detect_boxes(box * 0, box, *arguments, (1.0, 1.0, 1.0, 1.0), 4.0, 0.5, 0.5, 1)
