"""Focal loss of dense classifiers over the levels of a pyramid."""

from __future__ import annotations

import torch
from torch import Tensor

from detectron2.ops import sigmoid_focal_loss

__all__ = ["dense_focal_loss"]


def dense_focal_loss(logits: list[Tensor], labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sum of the sigmoid focal loss over anchors and classes (RetinaNet paper, eq. 5).

    Args:
        logits: per level, (N, R_l, K).
        labels: (N, R) int64 classes of the anchors of all levels; K is background, -1 takes no
            part.
        alpha: weight of positives, 1 - alpha that of negatives; negative for no weights.
        gamma: exponent; 0 is cross entropy.

    Returns:
        scalar, float32.
    """
    counts = [level.shape[1] for level in logits]
    losses = [
        sigmoid_focal_loss(level.flatten(0, 1), level_labels.flatten(), alpha, gamma)
        for level, level_labels in zip(logits, labels.split(counts, dim=1), strict=True)
    ]
    return torch.stack(losses).sum()
