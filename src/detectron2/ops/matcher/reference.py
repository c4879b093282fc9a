"""Matching of predictions to ground truth by the highest quality."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["bounds", "matcher_reference"]


def bounds(thresholds: Sequence[float], dtype: torch.dtype) -> list[float]:
    """The thresholds as numbers of `dtype`, in which qualities are compared with them."""
    return torch.tensor(list(thresholds), dtype=torch.float64).to(dtype).tolist()


def matcher_reference(
    quality: Tensor, thresholds: Sequence[float], labels: Sequence[int], low_quality: bool
) -> tuple[Tensor, Tensor]:
    """(N,) matches and (N,) labels; see :func:`detectron2.ops.matcher`."""
    count = quality.shape[1]
    match_labels = torch.full((count,), labels[0], dtype=torch.int8, device=quality.device)
    if quality.numel() == 0:
        return torch.zeros_like(match_labels, dtype=torch.int64), match_labels
    best, matches = quality.max(dim=0)
    # Ascending bounds: a higher interval overwrites the lower ones.
    for bound, label in zip(bounds(thresholds, quality.dtype), labels[1:]):
        match_labels = torch.where(best >= bound, label, match_labels)
    if low_quality:
        reached = (quality == quality.amax(dim=1, keepdim=True)).any(dim=0)
        match_labels = torch.where(reached, 1, match_labels)
    return matches, match_labels
