"""Random choice of training samples."""

from __future__ import annotations

import torch
from torch import Tensor

from detectron2.layers import nonzero_tuple

__all__ = ["keep_sampled_labels", "subsample_labels"]


def subsample_labels(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[Tensor, Tensor]:
    """Choose at most `num_samples` elements, a bounded share of them positive.

    Negatives fill what the positives leave, so there are fewer samples only where the negatives
    run out.

    Args:
        labels: (N,) integers; -1 is ignored, `bg_label` negative, everything else positive.
        num_samples: samples to take in all.
        positive_fraction: at most ``int(num_samples * positive_fraction)`` are positive.
        bg_label: label of a negative.

    Returns:
        int64 indices of the chosen positives and of the chosen negatives, each in random order.
    """
    negative_mask = labels == bg_label
    positive = nonzero_tuple((labels != -1) & ~negative_mask)[0]
    negative = nonzero_tuple(negative_mask)[0]

    num_positive = min(len(positive), int(num_samples * positive_fraction))
    num_negative = min(len(negative), num_samples - num_positive)
    chosen_positive = torch.randperm(len(positive), device=labels.device)[:num_positive]
    chosen_negative = torch.randperm(len(negative), device=labels.device)[:num_negative]
    return positive[chosen_positive], negative[chosen_negative]


def keep_sampled_labels(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> Tensor:
    """Labels of many images in which everything but a sample of each image is -1.

    Samples are distributed as those of `subsample_labels`, which decides on the CPU; here nothing
    waits for the device: both kinds are ranked by random keys, and as many of the highest ranks
    are looked at as could ever be taken.

    Args:
        labels: (N, R) integers, N images of R elements; see `subsample_labels`.
        num_samples: samples to take of each image.
        positive_fraction: at most ``int(num_samples * positive_fraction)`` are positive.
        bg_label: label of a negative.

    Returns:
        (N, R), a new tensor.
    """
    num_elements = labels.shape[1]
    negative_mask = labels == bg_label
    keys = torch.rand(labels.shape, device=labels.device)
    positive, is_positive = _highest_keys(
        keys,
        (labels != -1) & ~negative_mask,
        min(int(num_samples * positive_fraction), num_elements),
    )
    negative, is_negative = _highest_keys(keys, negative_mask, min(num_samples, num_elements))
    room = num_samples - is_positive.sum(dim=1, keepdim=True)  # (N, 1)
    is_negative &= torch.arange(negative.shape[1], device=labels.device) < room

    sampled = torch.full_like(labels, -1)
    for index, is_member in ((positive, is_positive), (negative, is_negative)):
        # Where members run out the index points anywhere: what is there stays.
        values = torch.where(is_member, labels.gather(1, index), sampled.gather(1, index))
        sampled.scatter_(1, index, values)
    return sampled


def _highest_keys(keys: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Index (N, count) of each row's members with the highest keys, and where it is a member."""
    highest, index = keys.masked_fill(~mask, -1.0).topk(count, dim=1)
    return index, highest >= 0
