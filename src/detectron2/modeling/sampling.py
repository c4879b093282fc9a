"""Random choice of training samples."""

from __future__ import annotations

import torch
from torch import Tensor

from detectron2.layers import nonzero_tuple

__all__ = ["subsample_labels"]


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
