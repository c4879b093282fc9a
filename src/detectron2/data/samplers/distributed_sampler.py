"""Samplers that know of distributed training: every process gets its share of the indices."""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data.sampler import Sampler

from detectron2.utils import comm

__all__ = [
    "InferenceSampler",
    "RandomSubsetTrainingSampler",
    "RepeatFactorTrainingSampler",
    "TrainingSampler",
]

logger = logging.getLogger(__name__)


class _EndlessSampler(Sampler):
    """Epochs of indices without end, of which process r of n takes each n-th, from the r-th on.

    All processes draw the same numbers, so their shares never overlap.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = comm.shared_random_seed() if seed is None else int(seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def state_dict(self) -> dict[str, Any]:
        """What the order depends on, for checkpoints."""
        return {"seed": self._seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the order of the sampler that `state_dict` was called on."""
        self._seed = state["seed"]

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            yield from self._epoch(generator).tolist()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """(N,) indices of one epoch."""
        raise NotImplementedError


class TrainingSampler(_EndlessSampler):
    """All indices in a new random order, again and again."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """
        Args:
            size: number of elements of the dataset.
            shuffle: False keeps the order of the dataset.
            seed: the same in all processes; None draws one that they share.

        Raises:
            TypeError: the size is no integer.
            ValueError: it is not positive.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler wants an integer size, got {size!r}.")
        if size <= 0:
            raise ValueError(f"TrainingSampler wants a positive size, got {size}.")
        super().__init__(seed)
        self._size = size
        self._shuffle = shuffle

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        if self._shuffle:
            return torch.randperm(self._size, generator=generator)
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """Like `TrainingSampler`, over a fixed random subset of the dataset."""

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ) -> None:
        """
        Args:
            size: number of elements of the dataset.
            subset_ratio: share of the dataset that is used, in (0, 1].
            shuffle: False keeps the order of the subset.
            seed_shuffle: of the order; the same in all processes, None draws one they share.
            seed_subset: of the subset; likewise.

        Raises:
            ValueError: the ratio is out of range.
        """
        super().__init__(size, shuffle, seed_shuffle)
        if not 0.0 < subset_ratio <= 1.0:
            raise ValueError(f"subset_ratio is {subset_ratio}; it must be above 0 and at most 1.")
        generator = torch.Generator()
        generator.manual_seed(
            comm.shared_random_seed() if seed_subset is None else int(seed_subset)
        )
        self._size_subset = int(size * subset_ratio)
        self._indexes_subset = torch.randperm(size, generator=generator)[: self._size_subset]
        if self._size_subset == 0:
            raise ValueError(f"subset_ratio={subset_ratio} of {size} elements leaves none.")
        logger.info("Training on a random subset of %d of %d elements.", self._size_subset, size)

    def state_dict(self) -> dict[str, Any]:
        """Seed of the order, and the subset."""
        return {**super().state_dict(), "subset": self._indexes_subset}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the subset and the order."""
        super().load_state_dict(state)
        self._indexes_subset = state["subset"]
        self._size_subset = len(self._indexes_subset)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        if self._shuffle:
            order = torch.randperm(self._size_subset, generator=generator)
            return self._indexes_subset[order]
        return self._indexes_subset


class RepeatFactorTrainingSampler(_EndlessSampler):
    """Shows images with rare categories more often (LVIS paper, appendix B.2)."""

    def __init__(
        self,
        repeat_factors: torch.Tensor,
        *,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            repeat_factors: (N,) floats, how often each element appears per epoch on average.
            shuffle: False keeps the order of the dataset, repetitions together.
            seed: the same in all processes; None draws one that they share.
        """
        super().__init__(seed)
        self._shuffle = shuffle
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: Sequence[dict[str, Any]], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Repeat factors of images from how many images show each category.

        With f the share of images that show a category, its factor is
        ``max(1, sqrt(repeat_thresh / f))``; the factor of an image is the largest of its
        categories, and 1 if it has none.

        Args:
            dataset_dicts: records with "annotations".
            repeat_thresh: frequency below which categories are repeated.
            sqrt: False leaves out the square root.

        Returns:
            (N,) float32.
        """
        shown = [
            {annotation["category_id"] for annotation in record["annotations"]}
            for record in dataset_dicts
        ]
        images_with = Counter(category for categories in shown for category in categories)
        factor_of = {}
        for category, count in images_with.items():
            ratio = repeat_thresh / (count / len(dataset_dicts))
            factor_of[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
        factors = [max((factor_of[c] for c in categories), default=1.0) for categories in shown]
        return torch.tensor(factors, dtype=torch.float32)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        # A factor of 2.3 gives two repetitions, and with probability 0.3 a third.
        draws = torch.rand(len(self._frac_part), generator=generator)
        repetitions = self._int_part + (draws < self._frac_part).float()
        indices = torch.repeat_interleave(
            torch.arange(len(repetitions)), repetitions.to(torch.int64)
        )
        if not self._shuffle:
            return indices
        return indices[torch.randperm(len(indices), generator=generator)]


class InferenceSampler(Sampler):
    """Every index once: each process gets a block of consecutive ones, the first one more."""

    def __init__(self, size: int) -> None:
        """
        Args:
            size: number of elements of the dataset.

        Raises:
            AssertionError: it is not positive.
        """
        if size <= 0:
            raise AssertionError(f"InferenceSampler wants a positive size, got {size}.")
        self._size = size
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()
        self._local_indices = self._get_local_indices(size, self._world_size, self._rank)

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, left_over = divmod(total_size, world_size)
        begin = rank * share + min(rank, left_over)
        return range(begin, begin + share + (1 if rank < left_over else 0))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
