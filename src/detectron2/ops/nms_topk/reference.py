"""Suppression of each image by itself, its result written into places of fixed number."""

from torch import Tensor

from detectron2.ops.nms.reference import batched_nms_reference
from detectron2.ops.nms_rotated.reference import batched_nms_rotated_reference

__all__ = ["nms_topk_reference"]


def nms_topk_reference(
    boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float, topk: int
) -> tuple[Tensor, Tensor]:
    """(N, topk) indices and (N,) counts; see :func:`detectron2.ops.nms_topk`."""
    images = boxes.shape[0]
    indices, counts = groups.new_zeros(images, topk), groups.new_zeros(images)
    suppress = batched_nms_rotated_reference if boxes.shape[2] == 5 else batched_nms_reference
    for image in range(images):
        rows = usable[image].nonzero()[:, 0]
        kept = suppress(
            boxes[image, rows], scores[image, rows], groups[image, rows], iou_threshold
        )[:topk]
        indices[image, : len(kept)] = rows[kept]
        counts[image] = len(kept)
    return indices, counts
