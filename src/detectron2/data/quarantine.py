"""Putting unreadable samples aside, so that one broken file does not end a long training run."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from detectron2.data.errors import SampleError

__all__ = ["LIST_FILE", "Quarantine", "TooManyUnreadableSamples", "read_list", "report_list"]

logger = logging.getLogger(__name__)

# Of the dataset; and at least this many samples. More than that is no accident: a wrong folder, a
# file system that is gone.
DEFAULT_SHARE = 0.1
DEFAULT_MINIMUM = 10

LIST_FILE = "unreadable_samples.jsonl"
"""Name of the list in the output folder of a training."""


class TooManyUnreadableSamples(RuntimeError):
    """More samples are unreadable than the budget allows."""


class Quarantine:
    """Record of the unreadable samples of a dataset, shared by all data loading workers.

    A sample enters when reading it raises `OSError` or `SampleError`; anything else is an error
    of the program and passes. Each entry is logged once, with the file and the reason, and a line
    is added to the list, which also shows what a worker process cannot log. When there are more
    than the budget, the next one ends the program.
    """

    def __init__(
        self,
        size: int,
        budget: int | None = None,
        list_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """
        Args:
            size: number of samples of the dataset, 0 if unknown (iterable datasets, whose samples
                count anew at every pass).
            budget: largest number of unreadable samples; None means 10 % of `size` and at least
                10, 0 lets no error pass.
            list_file: one line of JSON is added for each sample; see `read_list`. None keeps no
                list.
        """
        self.budget = max(DEFAULT_MINIMUM, int(size * DEFAULT_SHARE)) if budget is None else budget
        if self.budget < 0:
            raise ValueError(f"The budget of unreadable samples is {budget}; it must be >= 0.")
        self.list_file = None if list_file is None else os.path.abspath(list_file)
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
        if self.list_file is not None:
            self._add_to_list(index, record, error)
        what = f"Sample {index}" + (f" ({name!r})" if name else "")
        if self.count > self.budget:
            raise TooManyUnreadableSamples(
                f"{what} cannot be used, and with it {self.count} samples of the dataset, more "
                f"than the {self.budget} that are tolerated. The last reason: {error} Mend the "
                "dataset (`detectron2 dataset check` lists what is wrong), or allow more with "
                "DATALOADER.UNREADABLE_BUDGET, or build_detection_train_loader(..., "
                "unreadable_budget=N)."
            ) from error
        logger.warning(
            "%s cannot be used and is put aside, another takes its place (%d of at most %d): %s",
            what,
            self.count,
            self.budget,
            error,
        )

    def _add_to_list(self, index: int, record: Any, error: Exception) -> None:
        fields = record if isinstance(record, dict) else {}
        entry = {
            "time": time.time(),
            "index": int(index),
            "file_name": fields.get("file_name"),
            "image_id": fields.get("image_id"),
            "reason": str(error),
        }
        line = (json.dumps(entry, default=str) + "\n").encode()
        try:
            os.makedirs(os.path.dirname(self.list_file), exist_ok=True)  # type: ignore[type-var, arg-type]
            # One write in append mode: lines of several processes do not get mixed up.
            with open(self.list_file, "ab", buffering=0) as stream:  # type: ignore[arg-type]
                stream.write(line)
        except OSError as e:
            logger.warning("The list of unreadable samples cannot be written: %s", e)


def read_list(list_file: str | os.PathLike[str], since: float = 0.0) -> list[dict[str, Any]]:
    """Entries of a list, each sample once: "index", "file_name", "image_id", "reason", "time".

    Args:
        list_file: that need not exist.
        since: leave out what was found before, in seconds of ``time.time()``.
    """
    path = Path(list_file)
    if not path.exists():
        return []
    entries: dict[Any, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the disk was full, or the process was killed, in the middle of a line
        if entry["time"] >= since:
            # Processes of a distributed training find the same sample each for itself.
            entries.setdefault((entry["index"], entry["file_name"]), entry)
    return list(entries.values())


def report_list(list_file: str | os.PathLike[str], since: float = 0.0) -> None:
    """Log how many samples a list holds, and which, if there are any; see `read_list`."""
    entries = read_list(list_file, since)
    if entries:
        names = ", ".join(str(e["file_name"] or e["index"]) for e in entries[:5])
        more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
        logger.warning(
            "%d samples could not be used in this training: %s%s. %s lists them with the reasons.",
            len(entries),
            names,
            more,
            list_file,
        )
