"""Dataset wrappers: lists in shared memory, mapping, sampling, grouping."""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils import data
from torch.utils.data.sampler import Sampler

from detectron2.data.quarantine import Quarantine
from detectron2.data.stream import Place, own_random_numbers
from detectron2.utils.serialize import PicklableWrapper

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")


class MapDataset(data.Dataset):
    """Apply a function to the elements of a dataset.

    When the function returns None, the element is skipped: another one, chosen at random, takes
    its place (in an iterable dataset: the next one). With a `quarantine`, the same happens to
    elements that turn out unreadable.

    Wrapping an iterable dataset gives an iterable dataset.
    """

    def __new__(
        cls, dataset: Any, map_func: Callable[[Any], Any], *args: Any, **kwargs: Any
    ) -> Any:
        if isinstance(dataset, data.IterableDataset):
            return _MapIterableDataset(dataset, map_func, *args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        dataset: Sequence[Any] | data.Dataset,
        map_func: Callable[[Any], Any],
        quarantine: Quarantine | None = None,
    ) -> None:
        """
        Args:
            dataset: with integer indices, or iterable.
            map_func: takes an element. Lambdas and closures are fine, also with worker processes.
            quarantine: keeps record of unreadable elements; None lets their errors through.
        """
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)
        self.quarantine = quarantine
        self._rng = random.Random(42)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self._dataset, self._map_func

    @functools.cached_property
    def _fallback_candidates(self) -> set[int]:
        # Made when first needed: most datasets never skip an element.
        return set(range(len(self._dataset)))

    def seed_fallback(self, seed: int) -> None:
        """Let `seed` alone decide which elements take the place of skipped ones from here on."""
        self._rng.seed(seed)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        index = int(idx)
        for attempt in itertools.count(1):
            mapped = self._map_or_none(index)
            if mapped is not None:
                if "_fallback_candidates" in self.__dict__:
                    self._fallback_candidates.add(index)
                return mapped
            self._fallback_candidates.discard(index)
            if attempt == 3:
                logger.warning(
                    "Elements of the dataset cannot be used: %d in a row from element %d on.",
                    attempt,
                    idx,
                )
            index = self._draw_fallback()
        raise AssertionError("itertools.count ended")

    def _draw_fallback(self) -> int:
        candidates = self._fallback_candidates
        if not candidates:
            raise RuntimeError(
                f"None of the {len(self)} elements of the dataset can be used: the mapper returned "
                "None for each, or they are unreadable. Check the mapper's filter and the log."
            )
        # Sets cannot be drawn from without copying them; a hit is likely while most are usable.
        for _ in range(32):
            index = self._rng.randrange(len(self))
            if index in candidates:
                return index
        return self._rng.choice(tuple(candidates))

    def _map_or_none(self, index: int) -> Any:
        if self.quarantine is None:
            return self._map_func(self._dataset[index])
        if self.quarantine.holds(index):
            return None
        record = self._dataset[index]
        with self.quarantine.watch(index, record):
            return self._map_func(record)
        return None  # the quarantine took the element


class _MapIterableDataset(data.IterableDataset):
    """`MapDataset` of an iterable dataset."""

    def __init__(
        self,
        dataset: Iterable[Any],
        map_func: Callable[[Any], Any],
        quarantine: Quarantine | None = None,
    ) -> None:
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)
        self.quarantine = quarantine

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """State of the wrapped dataset, if it has one."""
        return self._dataset.state_dict() if hasattr(self._dataset, "state_dict") else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if hasattr(self._dataset, "load_state_dict"):
            self._dataset.load_state_dict(state)

    def __iter__(self) -> Iterator[Any]:
        # Not a generator itself: a loader inside starts its workers here.
        return self._mapped(enumerate(self._dataset))

    def _mapped(self, elements: Iterator[tuple[int, Any]]) -> Iterator[Any]:
        for position, element in elements:
            mapped = None
            if self.quarantine is None:
                mapped = self._map_func(element)
            else:
                with self.quarantine.watch(position, element):
                    mapped = self._map_func(element)
            if mapped is not None:
                yield mapped


class _TorchSerializedList:
    """A list of picklable objects as one block of bytes that processes share.

    A Python list would be copied into every worker bit by bit, because reading an object writes
    its reference count. The block is a tensor: forked workers share its pages, and PyTorch moves
    it to shared memory once when it is sent to the first spawned worker.
    """

    def __init__(self, lst: Iterable[Any]) -> None:
        block = bytearray()
        ends = [0]
        for element in lst:
            block += pickle.dumps(element, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(block))
        self._ends = torch.tensor(ends, dtype=torch.int64)
        self._block = torch.frombuffer(block or bytearray(1), dtype=torch.uint8)
        logger.info("Serialized %d elements into %.2f MiB.", len(self), len(block) / 2**20)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, idx: int) -> Any:
        if not -len(self) <= idx < len(self):
            raise IndexError(f"Element {idx} of a dataset of {len(self)}.")
        idx = int(idx) % len(self)
        start, end = self._ends[idx].item(), self._ends[idx + 1].item()
        return pickle.loads(memoryview(self._block[start:end].numpy()))


_DEFAULT_DATASET_FROM_LIST_SERIALIZE_METHOD: Callable[[Iterable[Any]], Any] = _TorchSerializedList


@contextmanager
def set_default_dataset_from_list_serialize_method(
    new: Callable[[Iterable[Any]], Any],
) -> Iterator[None]:
    """While active, ``DatasetFromList(serialize=True)`` stores its list as ``new(list)``.

    Args:
        new: takes a list, returns an object with ``len`` and integer indices.
    """
    global _DEFAULT_DATASET_FROM_LIST_SERIALIZE_METHOD
    old = _DEFAULT_DATASET_FROM_LIST_SERIALIZE_METHOD
    _DEFAULT_DATASET_FROM_LIST_SERIALIZE_METHOD = new
    try:
        yield
    finally:
        _DEFAULT_DATASET_FROM_LIST_SERIALIZE_METHOD = old


class DatasetFromList(data.Dataset):
    """A dataset whose elements are those of a list."""

    def __init__(
        self,
        lst: Sequence[Any],
        copy: bool = True,
        serialize: bool | Callable[[Sequence[Any]], Any] = True,
    ) -> None:
        """
        Args:
            lst: picklable elements, if they are to be serialized.
            copy: hand out deep copies, so that users may change them. A serialized list does so
                anyway.
            serialize: keep the elements as bytes, of which all data loading processes use the
                same copy; True, or a function that makes such a container from a list.
        """
        if not isinstance(serialize, bool) and not callable(serialize):
            raise TypeError(f"serialize must be True, False or a function, got {serialize!r}.")
        self._copy = copy
        self._serialize = serialize is not False
        self._lst: Any = lst
        if self._serialize:
            method = serialize
            if not callable(method):
                method = _DEFAULT_DATASET_FROM_LIST_SERIALIZE_METHOD
            self._lst = method(lst)

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> Any:
        element = self._lst[idx]
        if self._copy and not self._serialize:
            return copy.deepcopy(element)
        return element


class ToIterableDataset(data.IterableDataset):
    """A dataset with indices, in the order of a sampler, as an iterable dataset."""

    def __init__(
        self,
        dataset: Any,
        sampler: Sampler[int] | Iterable[int],
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            dataset: with integer indices.
            sampler: indices; every data loading worker iterates over a copy of it.
            shard_sampler: whether each worker takes its share of the sampler. False if the
                sampler itself differs between workers.
            shard_chunk_size: how many consecutive indices a worker takes at a time. With the
                batch size here, batches are the same for any number of workers.
            seed: of the random numbers that elements are changed by; they depend on it and on
                the position in the sampler only. None leaves the global generators alone.
        """
        if isinstance(dataset, data.IterableDataset):
            raise TypeError("ToIterableDataset wants a dataset with indices, not an iterable one.")
        if not isinstance(sampler, Iterable):
            raise TypeError(f"The sampler must be iterable, got {type(sampler).__name__}.")
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size
        self.seed = seed
        self.place = Place()

    def __iter__(self) -> Iterator[Any]:
        numbered = self.place.numbered(self.sampler)
        if self.shard_sampler:
            numbered = _share_of_worker(numbered, self.shard_chunk_size)
        for position, index in numbered:
            yield self._element(position, index)

    def _element(self, position: int, index: int) -> Any:
        if self.seed is None:
            return self.dataset[index]
        with own_random_numbers(self.seed, position):
            if hasattr(self.dataset, "seed_fallback"):
                self.dataset.seed_fallback(self.seed + position)
            return self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


def _share_of_worker(iterable: Iterable[_Item], chunk_size: int) -> Iterator[_Item]:
    """Every n-th chunk of an iterable, n being the number of data loading workers."""
    worker = data.get_worker_info()
    if worker is None or worker.num_workers == 1:
        yield from iterable
        return
    iterator = iter(iterable)
    for turn in itertools.cycle(range(worker.num_workers)):
        chunk = list(itertools.islice(iterator, chunk_size))
        if not chunk:
            return
        if turn == worker.id:
            yield from chunk


class AspectRatioGroupedDataset(data.IterableDataset):
    """Batches of elements that are all wider than high, or all not.

    Batches are padded to their largest image, so mixing portraits and landscapes wastes memory.
    """

    def __init__(self, dataset: Iterable[dict[str, Any]], batch_size: int) -> None:
        """
        Args:
            dataset: elements with "width" and "height".
            batch_size: number of elements of a batch.
        """
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: list[list[dict[str, Any]]] = [[], []]
        self._positions: list[list[int]] = [[], []]

    def state_dict(self) -> dict[str, Any]:
        """Place in the stream, if `dataset` is a `StreamLoader`; else nothing is known."""
        if not hasattr(self.dataset, "state_dict"):
            return {}
        return self.dataset.state_dict(sorted(itertools.chain(*self._positions)))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Enter the stream where `state_dict` left it."""
        if hasattr(self.dataset, "load_state_dict"):
            self.dataset.load_state_dict(state)
        self._buckets, self._positions = [[], []], [[], []]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        # Not a generator itself: a loader inside starts its workers here.
        return self._batches(enumerate(self.dataset))

    def _batches(
        self, elements: Iterator[tuple[int, dict[str, Any]]]
    ) -> Iterator[list[dict[str, Any]]]:
        position_of = getattr(self.dataset, "position", int)
        for count, element in elements:
            kind = 0 if element["width"] > element["height"] else 1
            bucket, positions = self._buckets[kind], self._positions[kind]
            bucket.append(element)
            positions.append(position_of(count))
            if len(bucket) == self.batch_size:
                # Emptied first: whoever stops iterating here leaves no full bucket behind.
                batch = bucket[:]
                bucket.clear()
                positions.clear()
                yield batch
