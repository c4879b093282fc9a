"""Steps that the trackers share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from detectron2.structures import Instances

__all__ = ["LARGE_COST_VALUE", "Instances", "create_prediction_pairs"]

# Cost of pairing instances that do not belong together; above any real cost.
LARGE_COST_VALUE = 100000


def create_prediction_pairs(
    instances: Instances,
    prev_instances: Instances,
    iou_all: torch.Tensor,
    threshold: float = 0.5,
) -> list[dict[str, Any]]:
    """Pairs of a current and a previous instance that overlap enough to be the same.

    Args:
        instances: N instances of this frame.
        prev_instances: M instances of the frame before, with ID and ID_period.
        iou_all: (N, M) IoU.
        threshold: lowest IoU of a pair.

    Returns:
        Dictionaries of "idx", "prev_idx", "prev_id", "IoU" and "prev_period", in order of the
        indices.
    """
    return [
        {
            "idx": index,
            "prev_idx": previous,
            "prev_id": prev_instances.ID[previous],
            "IoU": iou,
            "prev_period": prev_instances.ID_period[previous],
        }
        for index, row in enumerate(iou_all.tolist()[: len(instances)])
        for previous, iou in enumerate(row[: len(prev_instances)])
        if iou >= threshold
    ]


def with_plain_size(instances: Instances) -> Instances:
    """`instances` with an image size of plain integers; some detectors give a tensor."""
    height, width = instances.image_size
    if isinstance(height, int) and isinstance(width, int):
        return instances
    return Instances((int(height), int(width)), **instances.get_fields())


def add_track_fields(instances: Instances) -> None:
    """Give instances the fields ID, ID_period and lost_frame_count, in place; None is unknown."""
    for name in ("ID", "ID_period", "lost_frame_count"):
        if not instances.has(name):
            instances.set(name, [None] * len(instances))


def with_lost(
    instances: Instances,
    prev_instances: Instances,
    lost: Iterable[int],
    *,
    video_size: tuple[float, float],
    max_lost_frame_count: int,
    min_box_rel_dim: float,
    min_instance_period: int,
) -> Instances:
    """`instances` followed by the previous ones that this frame misses and that are worth keeping.

    Args:
        lost: indices of previous instances without a partner.
        video_size: (height, width).
        max_lost_frame_count: an instance that was missed in so many frames is dropped.
        min_box_rel_dim: so is one whose box is less than this part of the video high or wide,
        min_instance_period: and one that was not seen in more than so many frames.
    """
    boxes = prev_instances.pred_boxes.tensor.tolist()

    def is_worth_keeping(index: int) -> bool:
        x0, y0, x1, y1 = boxes[index]
        return (
            (x1 - x0) / video_size[1] >= min_box_rel_dim
            and (y1 - y0) / video_size[0] >= min_box_rel_dim
            and prev_instances.lost_frame_count[index] < max_lost_frame_count
            and prev_instances.ID_period[index] > min_instance_period
        )

    kept = [index for index in sorted(lost) if is_worth_keeping(index)]
    if not kept:
        return instances
    chosen = prev_instances[torch.tensor(kept, device=prev_instances.pred_boxes.device)]
    chosen.lost_frame_count = [count + 1 for count in chosen.lost_frame_count]
    return Instances.cat([instances, chosen])
