"""Which proposals each head trains on."""

from __future__ import annotations

import torch
from torch import Tensor

from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage


def select_foreground_proposals(
    proposals: list[Instances], bg_label: int
) -> tuple[list[Instances], list[Tensor]]:
    """Proposals that hold an object.

    Args:
        proposals: of each image, with `gt_classes`; -1 there means ignored.
        bg_label: class of the background.

    Returns:
        For each image the chosen proposals, and (N,) bool which ones they are.
    """
    masks = [(p.gt_classes != -1) & (p.gt_classes != bg_label) for p in proposals]
    # An index is computed once; a mask would be turned into one again for every field.
    chosen = [p[mask.nonzero()[:, 0]] for p, mask in zip(proposals, masks)]
    return chosen, masks


def select_proposals_with_visible_keypoints(proposals: list[Instances]) -> list[Instances]:
    """Proposals with at least one visible keypoint inside of their box.

    Others give a keypoint head nothing to learn from, and an image may have none at all.

    Args:
        proposals: of each image, foreground only, with `proposal_boxes` and `gt_keypoints`.
    """
    chosen = []
    for p in proposals:
        if len(p) == 0:  # has no ground truth to look at
            chosen.append(p)
            continue
        x, y, visibility = p.gt_keypoints.tensor.unbind(dim=2)  # (N, K) each
        left, top, right, bottom = p.proposal_boxes.tensor[:, :, None].unbind(dim=1)  # (N, 1)
        inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
        useful = (inside & (visibility >= 1)).any(dim=1)
        chosen.append(p[useful.nonzero()[:, 0]])
    if has_event_storage() and chosen:
        mean_count = sum(len(p) for p in chosen) / len(chosen)
        get_event_storage().put_scalar("keypoint_head/num_fg_samples", mean_count)
    return chosen


def copy_matched_targets(proposals: Instances, targets: Instances, matched_indices: Tensor) -> None:
    """Give each proposal the ground truth it is matched with, in the fields it does not have.

    Fields of `targets` whose name starts with ``gt_`` are written into `proposals`.

    Args:
        matched_indices: (N,) row of `targets` for each proposal.
    """
    for name, value in targets.get_fields().items():
        if name.startswith("gt_") and not proposals.has(name):
            proposals.set(name, value[matched_indices])


def log_sample_counts(proposals: list[Instances], bg_label: int, prefix: str = "") -> None:
    """Mean number over images of foreground and background samples, into the event storage."""
    if not has_event_storage() or not proposals:
        return
    total = sum(len(p) for p in proposals)
    num_background = int(torch.stack([(p.gt_classes == bg_label).sum() for p in proposals]).sum())
    storage = get_event_storage()
    num_images = len(proposals)
    storage.put_scalar(f"{prefix}roi_head/num_fg_samples", (total - num_background) / num_images)
    storage.put_scalar(f"{prefix}roi_head/num_bg_samples", num_background / num_images)
