"""Which proposals each head trains on."""

from __future__ import annotations

import torch
from torch import Tensor

from detectron2.modeling.sampling import rows_of_masks
from detectron2.structures import Instances
from detectron2.utils._deferred import put_scalars_later
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
    if not masks:
        return [], []
    # An index is computed once; a mask would be turned into one again for every field.
    return [p[rows] for p, rows in zip(proposals, rows_of_masks(masks))], masks


def select_proposals_with_visible_keypoints(proposals: list[Instances]) -> list[Instances]:
    """Proposals with at least one visible keypoint inside of their box.

    Others give a keypoint head nothing to learn from, and an image may have none at all.

    Args:
        proposals: of each image, foreground only, with `proposal_boxes` and `gt_keypoints`.
    """
    useful = [_has_visible_keypoint(p) for p in proposals if len(p) > 0]
    rows = iter(rows_of_masks(useful) if useful else [])
    # An image without proposals has no ground truth to look at.
    chosen = [p[next(rows)] if len(p) > 0 else p for p in proposals]
    if has_event_storage() and chosen:
        mean_count = sum(len(p) for p in chosen) / len(chosen)
        get_event_storage().put_scalar("keypoint_head/num_fg_samples", mean_count)
    return chosen


def _has_visible_keypoint(proposals: Instances) -> Tensor:
    """(N,) True where a visible keypoint lies inside of the proposal."""
    x, y, visibility = proposals.gt_keypoints.tensor.unbind(dim=2)  # (N, K) each
    left, top, right, bottom = proposals.proposal_boxes.tensor[:, :, None].unbind(dim=1)  # (N, 1)
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return (inside & (visibility >= 1)).any(dim=1)


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
    total, num_images = sum(len(p) for p in proposals), len(proposals)
    put_scalars_later(
        get_event_storage(),
        torch.stack([(p.gt_classes == bg_label).sum() for p in proposals]),
        lambda num_background: {
            f"{prefix}roi_head/num_fg_samples": (total - sum(num_background)) / num_images,
            f"{prefix}roi_head/num_bg_samples": sum(num_background) / num_images,
        },
    )
