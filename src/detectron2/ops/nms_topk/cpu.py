"""Suppression on CPU that ends when it has found enough boxes.

Boxes are visited by descending score; each is compared with the boxes of its group that were
kept before it. For K boxes of which M are kept in G groups that is about K M / 2 G pairs.
"""

import numpy as np
import torch
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.compiled import as_array, compiled
from detectron2.ops.nms.reference import score_order, threshold_below
from detectron2.ops.nms_rotated.cpu import batched_nms_rotated

__all__ = ["nms_topk", "pick", "warm_up"]


@compiled()
def is_dropped(box, kept, heads, links, head, threshold):  # type: ignore[no-untyped-def]
    """Whether a kept box of the chain that starts at `heads[head]` overlaps `box`."""
    zero, box_area = box.dtype.type(0), (box[2] - box[0]) * (box[3] - box[1])
    place = heads[head]
    while place >= 0:
        wide = max(min(box[2], kept[place, 2]) - max(box[0], kept[place, 0]), zero)
        high = max(min(box[3], kept[place, 3]) - max(box[1], kept[place, 1]), zero)
        common = wide * high
        area = (kept[place, 2] - kept[place, 0]) * (kept[place, 3] - kept[place, 1])
        if common / (area + box_area - common) > threshold:
            return True
        place = links[place]
    return False


@compiled()
def pick(boxes, box_of, groups, order, threshold, group_count, picked):  # type: ignore[no-untyped-def]
    """Fill `picked` with the candidates that stay; returns their number.

    Args:
        boxes: (B, 4).
        box_of: (D,) row of `boxes` of each candidate.
        groups: (D,) in [0, group_count).
        order: (D,) candidates by descending score.
        picked: (topk,) int64, written.
    """
    kept = np.empty((picked.shape[0], 4), boxes.dtype)
    heads = np.full(group_count, -1, np.int64)
    links = np.empty(picked.shape[0], np.int64)
    count = 0
    for candidate in order:
        if count == picked.shape[0]:
            break
        box, group = boxes[box_of[candidate]], groups[candidate]
        if is_dropped(box, kept, heads, links, group, threshold):
            continue
        kept[count] = box
        picked[count] = candidate
        links[count], heads[group] = heads[group], count
        count += 1
    return count


def nms_topk(
    boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float, topk: int
) -> tuple[Tensor, Tensor]:
    """The Numba version of :func:`detectron2.ops.nms_topk`."""
    images = boxes.shape[0]
    indices, counts = groups.new_zeros(images, topk), groups.new_zeros(images)
    for image in range(images):
        rows = usable[image].nonzero()[:, 0]
        if len(rows) == 0:
            continue
        if boxes.shape[2] == 5:
            candidates = boxes[image, rows], scores[image, rows], groups[image, rows]
            chosen = rows[batched_nms_rotated(*candidates, iou_threshold)[:topk]]
            indices[image, : len(chosen)], counts[image] = chosen, len(chosen)
            continue
        names, members = torch.unique(groups[image, rows], return_inverse=True)
        corners = as_array(boxes[image, rows], compute_dtype(boxes.dtype))
        picked = np.zeros(topk, np.int64)
        counts[image] = pick(
            corners,
            np.arange(len(rows)),
            as_array(members),
            as_array(score_order(scores[image, rows])),
            corners.dtype.type(threshold_below(iou_threshold, boxes.dtype)),
            len(names),
            picked,
        )
        chosen = torch.from_numpy(picked[: int(counts[image])])
        indices[image, : len(chosen)] = rows[chosen]
    return indices, counts


def warm_up() -> None:
    """Compile for float32."""
    boxes, one = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), torch.ones(1, 1)
    nms_topk(boxes, one, one.long(), one.bool(), 0.5, 1)
