"""Endless streams of samples that can be left at any sample and entered there again.

A training that is killed and resumed must see the samples that it would have seen, changed by
the same random numbers, however many workers load them and however many batches they had loaded
ahead. So every sample has a position in the stream of its process, and its random numbers depend
on that position alone.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import data as torchdata

from detectron2.utils import comm

__all__ = ["Place", "StreamLoader", "own_random_numbers"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a stream of samples is entered.

    Attributes:
        waiting: positions, in order, of samples that were loaded but are in no batch yet.
        next: first position that was never handed out.
    """

    waiting: tuple[int, ...] = ()
    next: int = 0

    def position(self, count: int) -> int:
        """Position of the `count`-th sample, from 0, of a stream that is entered here."""
        if count < len(self.waiting):
            return self.waiting[count]
        return self.next + count - len(self.waiting)

    def numbered(self, indices: Iterable[int]) -> Iterator[tuple[int, int]]:
        """(position, index) of the rest of a stream, whose indices are given from its start."""
        wanted = set(self.waiting)
        everything = enumerate(indices)
        for position, index in itertools.islice(everything, self.next):
            if position in wanted:
                yield position, index
        yield from everything


@contextmanager
def own_random_numbers(seed: int, position: int) -> Iterator[None]:
    """Random numbers of one sample: inside the block the global generators are seeded for it.

    Afterwards they go on as before, because without workers they are those of the model too.
    """
    is_worker = torchdata.get_worker_info() is not None
    before = (
        None if is_worker else (random.getstate(), np.random.get_state(), torch.get_rng_state())
    )
    state = np.random.SeedSequence([seed, position]).generate_state(4)
    random.seed(int(state[0]))
    np.random.seed(state[1])
    # The CPU's generator only: torch.manual_seed would also seed those of the GPUs.
    torch.default_generator.manual_seed(int(state[2]) << 32 | int(state[3]))
    try:
        yield
    finally:
        if before is not None:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])


class StreamLoader(torchdata.DataLoader):
    """A ``DataLoader`` that knows which samples it has handed out.

    It works on a `ToIterableDataset`, whose samples it takes in the order of the sampler. Of
    other iterable datasets nothing is known, and its state is empty.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        """
        Args:
            dataset: iterable.
            **options: of ``torch.utils.data.DataLoader``.
        """
        super().__init__(dataset, **options)
        self._batches = 0

    @property
    def _is_stream(self) -> bool:
        return hasattr(self.dataset, "place")

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._batches = 0
        # Not a generator itself: the workers start here, not at the first batch.
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._batches += 1
            yield batch

    def position(self, count: int) -> int:
        """Position of the `count`-th sample that was handed out since the loader was entered."""
        place: Place = self.dataset.place if self._is_stream else Place()
        return place.position(count)

    def state_dict(self, waiting: Sequence[int] = ()) -> dict[str, Any]:
        """Where the stream is, as plain data.

        Args:
            waiting: positions of samples that were handed out and are not used yet.
        """
        if not self._is_stream:
            return {}
        sampler = self.dataset.sampler
        return {
            "waiting": list(waiting),
            "next": self.position(self._batches * (self.batch_size or 1)),
            "seed": self.dataset.seed,
            "sampler": sampler.state_dict() if hasattr(sampler, "state_dict") else {},
            "world_size": comm.get_world_size(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Enter the stream where `state_dict` left it; takes effect at the next ``iter()``."""
        if not self._is_stream or not state:
            logger.warning("The position in the training data is not known; it begins anew.")
            return
        self.dataset.seed = state["seed"]
        if state["sampler"]:
            self.dataset.sampler.load_state_dict(state["sampler"])
        self.dataset.place = _place_of(state)
        self._batches = 0


def _place_of(state: Mapping[str, Any]) -> Place:
    before, now = state["world_size"], comm.get_world_size()
    if before == now:
        return Place(tuple(state["waiting"]), state["next"])
    logger.warning(
        "The checkpoint is of %d processes, now there are %d: the data go on at the same image, "
        "in batches that are put together differently.",
        before,
        now,
    )
    return Place((), -(-state["next"] * before // now))
