"""Putting unreadable samples aside, so that one broken file does not end a long training run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from detectron2.data.errors import SampleError

__all__ = ["Quarantine", "TooManyUnreadableSamples"]

logger = logging.getLogger(__name__)

# Of the dataset; and at least this many samples.
DEFAULT_SHARE = 0.01
DEFAULT_MINIMUM = 10


class TooManyUnreadableSamples(RuntimeError):
    """More samples are unreadable than the budget allows."""


class Quarantine:
    """Record of the unreadable samples of a dataset, shared by all data loading workers.

    A sample enters when reading it raises `OSError` or `SampleError`; anything else is an error
    of the program and passes. Each entry is logged once, with the file and the reason. When
    there are more than the budget, the next one ends the program.
    """

    def __init__(self, size: int, budget: int | None = None) -> None:
        """
        Args:
            size: number of samples of the dataset, 0 if unknown (iterable datasets, whose samples
                count anew at every pass).
            budget: largest number of unreadable samples; None means 1 % of `size` and at least
                10, 0 lets no error pass.
        """
        self.budget = max(DEFAULT_MINIMUM, int(size * DEFAULT_SHARE)) if budget is None else budget
        if self.budget < 0:
            raise ValueError(f"The budget of unreadable samples is {budget}; it must be >= 0.")
        self._size = size
        # Flags, not a counter: workers that set the same flag at once do no harm. One per sample,
        # or, where there is no telling samples apart, one per entry.
        self._flags = torch.zeros(size or self.budget + 1, dtype=torch.bool).share_memory_()

    @property
    def count(self) -> int:
        """Number of samples in quarantine, of all workers together."""
        return int(self._flags.sum())

    def holds(self, index: int) -> bool:
        """Whether a sample was found unreadable before."""
        return self._size > 0 and bool(self._flags[index])

    @contextmanager
    def watch(self, index: int, record: Any) -> Iterator[None]:
        """Take the sample and swallow the error if the block finds it unreadable.

        Args:
            index: of the sample in the dataset.
            record: what the dataset holds of it, for the log.

        Raises:
            TooManyUnreadableSamples: the budget is spent.
        """
        try:
            yield
        except (OSError, SampleError) as e:
            self._take(index, record, e)

    def _take(self, index: int, record: Any, error: Exception) -> None:
        self._flags[index if self._size else min(self.count, self.budget)] = True
        name = record.get("file_name") if isinstance(record, dict) else None
        what = f"Sample {index}" + (f" ({name!r})" if name else "")
        if self.count > self.budget:
            raise TooManyUnreadableSamples(
                f"{what} cannot be used, and with it {self.count} samples of the dataset, more "
                f"than the {self.budget} that are tolerated. The last reason: {error} Mend the "
                "dataset, or allow more with build_detection_train_loader(..., "
                "unreadable_budget=N)."
            ) from error
        logger.warning(
            "%s cannot be used and is put aside, another takes its place (%d of at most %d): %s",
            what,
            self.count,
            self.budget,
            error,
        )
