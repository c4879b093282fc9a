"""Random choice of training samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detectron2.layers import nonzero_tuple
from detectron2.modeling._forms import in_two_forms

__all__ = ["keep_sampled_labels", "rows_of_masks", "subsample_images", "subsample_labels"]


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
    sampled = torch.full_like(labels, -1)
    for index, is_member in _samples(labels, num_samples, positive_fraction, bg_label):
        # Where members run out the index points anywhere: what is there stays.
        values = torch.where(is_member, labels.gather(1, index), sampled.gather(1, index))
        sampled.scatter_(1, index, values)
    return sampled


def subsample_images(
    labels: Sequence[Tensor], num_samples: int, positive_fraction: float, bg_label: int
) -> list[Tensor]:
    """`subsample_labels` of many images, with one wait for the device in all.

    Args:
        labels: for each image, (R,) integers; see `subsample_labels`.
        num_samples: samples to take of each image.
        positive_fraction: at most ``int(num_samples * positive_fraction)`` are positive.
        bg_label: label of a negative.

    Returns:
        For each image, int64 indices of the chosen positives and behind them those of the chosen
        negatives, each in random order.
    """
    padded = pad_sequence(list(labels), batch_first=True, padding_value=-1)
    (positive, is_positive), (negative, is_negative) = _samples(
        padded, num_samples, positive_fraction, bg_label
    )
    index = torch.cat([positive, negative], dim=1)
    chosen = rows_of_masks(list(torch.cat([is_positive, is_negative], dim=1)))
    return [row[columns] for row, columns in zip(index, chosen, strict=True)]


def _rows_by_sorting(masks: Sequence[Tensor]) -> list[Tensor]:
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    # A stable sort moves what is True to the front and keeps its order.
    orders = [(~mask).to(torch.uint8).argsort(stable=True) for mask in masks]
    return [order[:count] for order, count in zip(orders, counts, strict=True)]


@in_two_forms(fixed=_rows_by_sorting)
def rows_of_masks(masks: Sequence[Tensor]) -> list[Tensor]:
    """Where each of some (R,) masks is True, as int64 indices, with one wait for the device in
    all."""
    return [mask.nonzero()[:, 0] for mask in masks]


def _samples(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Candidates among positives and among negatives, in random order: index (N, count), and
    which of them are samples; arguments as in `keep_sampled_labels`."""
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
    return (positive, is_positive), (negative, is_negative)


def _highest_keys(keys: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Index (N, count) of each row's members with the highest keys, and where it is a member."""
    highest, index = keys.masked_fill(~mask, -1.0).topk(count, dim=1)
    return index, highest >= 0
