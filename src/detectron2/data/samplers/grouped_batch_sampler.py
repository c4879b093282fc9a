"""Batches whose elements belong to the same group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data.sampler import BatchSampler, Sampler

__all__ = ["GroupedBatchSampler"]


class GroupedBatchSampler(BatchSampler):
    """Batches of indices of the same group, in the order in which they fill up.

    Elements of a batch keep the order of the sampler; batches of different groups interleave.
    """

    def __init__(self, sampler: Sampler[int], group_ids: Sequence[int], batch_size: int) -> None:
        """
        Args:
            sampler: gives indices.
            group_ids: (N,) group of each index.
            batch_size: number of indices of a batch.

        Raises:
            ValueError: `sampler` is no Sampler.
        """
        if not isinstance(sampler, Sampler):
            raise ValueError(
                f"GroupedBatchSampler wants a torch.utils.data.Sampler, got "
                f"{type(sampler).__name__}; wrap a list of indices in a SequentialSampler."
            )
        self.sampler = sampler
        self.group_ids = np.asarray(group_ids)
        if self.group_ids.ndim != 1:
            raise ValueError(f"group_ids must be one number per index, got {self.group_ids.shape}.")
        self.batch_size = batch_size
        self.buffer_per_group: dict[int, list[int]] = {
            int(group): [] for group in np.unique(self.group_ids)
        }

    def __iter__(self) -> Iterator[list[int]]:
        for index in self.sampler:
            waiting = self.buffer_per_group[int(self.group_ids[index])]
            waiting.append(index)
            if len(waiting) == self.batch_size:
                batch = waiting[:]
                waiting.clear()
                yield batch

    def __len__(self) -> int:
        # TypeError, so that list() and others that only ask for a hint go on without.
        raise TypeError(
            "The number of batches of a GroupedBatchSampler depends on the order of the indices."
        )
