"""From scores of every box and class of a batch to the pairs that may become detections."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detectron2.layers import cat, shapes_to_tensor
from detectron2.structures import Boxes, Instances, RotatedBoxes


class Candidates(NamedTuple):
    """D pairs of a box and a class, image after image."""

    boxes: Tensor
    """(D, B) as they came, not clipped."""
    scores: Tensor
    """(D,)"""
    classes: Tensor
    """(D,) int64"""
    images: Tensor
    """(D,) int64 index of the image."""
    groups: Tensor
    """(D,) int64, one number for each class of each image."""
    rows: Tensor
    """(D,) int64 row of the image's boxes, counted without rows that are not finite."""
    image_sizes: Tensor
    """(D, 2) height and width of the image."""


def find_candidates(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    box_dim: int,
) -> Candidates:
    """Pairs that score above `score_thresh`; arguments as in `fast_rcnn_inference`.

    Args:
        box_dim: B, numbers of a box.
    """
    all_boxes, all_scores = cat(boxes), cat(scores)  # (R, K * B) or (R, B); (R, K + 1)
    finite = torch.isfinite(all_boxes).all(dim=1) & torch.isfinite(all_scores).all(dim=1)
    foreground = all_scores[:, :-1]
    # One index for the whole batch: a boolean mask would wait for the device once for every
    # tensor it selects from.
    rows, classes = ((foreground > score_thresh) & finite[:, None]).nonzero(as_tuple=True)

    per_class = all_boxes.unflatten(1, (-1, box_dim))  # (R, K or 1, B)
    columns = classes if per_class.shape[1] > 1 else torch.zeros_like(classes)
    image_of_row = [torch.full_like(s[:, 0], i, dtype=torch.int64) for i, s in enumerate(scores)]
    images = cat(image_of_row)[rows]
    finite_of_image = finite.split([s.shape[0] for s in scores])
    finite_rank = cat([part.cumsum(0) for part in finite_of_image]) - 1
    sizes = [shapes_to_tensor(shape, device=all_boxes.device) for shape in image_shapes]
    return Candidates(
        boxes=per_class[rows, columns],
        scores=foreground[rows, classes],
        classes=classes,
        images=images,
        groups=images * foreground.shape[1] + classes,
        rows=finite_rank[rows],
        image_sizes=torch.stack(sizes)[images],
    )


def deal_out(
    candidates: Candidates,
    clipped: Boxes | RotatedBoxes,
    kept: Tensor,
    image_shapes: list[tuple[int, int]],
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """The first kept candidates of each image as Instances, and their rows.

    Args:
        clipped: boxes of the candidates, inside of their images.
        kept: indices of candidates by descending score.
        topk_per_image: at most so many for an image, all if negative.
    """
    results, rows = [], []
    image_of_kept = candidates.images[kept]
    for index, shape in enumerate(image_shapes):
        mine = kept
        if len(image_shapes) > 1:
            mine = kept[(image_of_kept == index).nonzero()[:, 0]]
        if topk_per_image >= 0:
            mine = mine[:topk_per_image]
        result = Instances(shape)
        result.pred_boxes = clipped[mine]
        result.scores = candidates.scores[mine]
        result.pred_classes = candidates.classes[mine]
        results.append(result)
        rows.append(candidates.rows[mine])
    return results, rows
