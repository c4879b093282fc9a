"""Where the time of data loading goes."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils import data
from torch.utils.data.sampler import Sampler

from detectron2.data.build import build_batch_data_loader
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm

__all__ = [
    "DataLoaderBenchmark",
    "DatasetFromList",
    "MapDataset",
    "TrainingSampler",
    "build_batch_data_loader",
    "iter_benchmark",
]

logger = logging.getLogger(__name__)


def iter_benchmark(
    iterator: Iterator[Any], num_iter: int, warmup: int = 5, max_time_seconds: float = 60
) -> tuple[float, list[float]]:
    """Time an iterator.

    Args:
        iterator: must hold `warmup` and one more elements.
        num_iter: how many elements to time.
        warmup: how many to take before.
        max_time_seconds: stop early after this long, warm-up included.

    Returns:
        Mean seconds per element, and the seconds of each.
    """
    begin = time.perf_counter()
    for _ in range(warmup):
        next(iterator)
    seconds: list[float] = []
    for _ in range(num_iter):
        start = time.perf_counter()
        if seconds and start - begin > max_time_seconds:
            break
        next(iterator)
        seconds.append(time.perf_counter() - start)
    return float(np.mean(seconds)), seconds


class _Constant(data.IterableDataset):
    """The same element without end."""

    def __init__(self, element: Any) -> None:
        self.element = element

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self.element)


class DataLoaderBenchmark:
    """Times each stage of data loading: records, mapper, workers, transfer between processes.

    Compare the stages to see which one limits training: a slow `benchmark_dataset` points to the
    storage of the records, a slow `benchmark_mapper` to reading and augmenting images, a slow
    `benchmark_IPC` to the size of the samples.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        mapper: Callable[[Any], Any],
        sampler: Sampler[int] | Iterable[int] | None = None,
        total_batch_size: int,
        num_workers: int = 0,
        max_time_seconds: int = 90,
    ) -> None:
        """
        Args:
            dataset: as for `build_detection_train_loader`.
            mapper: likewise.
            sampler: likewise.
            total_batch_size: likewise.
            num_workers: likewise.
            max_time_seconds: of each benchmark.
        """
        if isinstance(dataset, list):
            dataset = DatasetFromList(dataset, copy=False, serialize=True)
        self.dataset = dataset
        self.mapper = mapper
        self.sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.per_gpu_batch_size = self.total_batch_size // comm.get_world_size()
        self.max_time_seconds = max_time_seconds

    def benchmark_dataset(self, num_iter: int, warmup: int = 5) -> None:
        """Log how fast records are read from the dataset, in this process."""

        def records() -> Iterator[Any]:
            for index in self.sampler:
                yield self.dataset[index]

        self._benchmark(records(), num_iter, warmup, "dataset")

    def benchmark_mapper(self, num_iter: int, warmup: int = 5) -> None:
        """Log how fast samples are made from records, in this process."""

        def samples() -> Iterator[Any]:
            for index in self.sampler:
                yield self.mapper(self.dataset[index])

        self._benchmark(samples(), num_iter, warmup, "dataset + mapper")

    def benchmark_workers(self, num_iter: int, warmup: int = 10) -> None:
        """Log how fast batches come from no worker, from one and from `num_workers`."""
        mapped = MapDataset(self.dataset, self.mapper)
        for workers in sorted({0, 1, self.num_workers}):
            loader = self._loader(mapped, self.sampler, workers)
            label = f"{workers} workers, batch of {self.per_gpu_batch_size}"
            self._benchmark(iter(loader), num_iter * max(workers, 1), warmup, label)

    def benchmark_IPC(self, num_iter: int, warmup: int = 10) -> None:
        """Log how fast one and the same sample comes through the workers: the cost of transfer."""
        sample = self.mapper(self.dataset[next(iter(self.sampler))])
        loader = self._loader(_Constant(sample), None, self.num_workers)
        label = f"transfer from {self.num_workers} workers, batch of {self.per_gpu_batch_size}"
        self._benchmark(iter(loader), num_iter * max(self.num_workers, 1), warmup, label)

    def benchmark_distributed(self, num_iter: int, warmup: int = 10) -> None:
        """Log how fast every process of a distributed program gets its batches."""
        mapped = MapDataset(self.dataset, self.mapper)
        loader = self._loader(mapped, self.sampler, self.num_workers)
        mean, seconds = iter_benchmark(
            iter(loader), num_iter * max(self.num_workers, 1), warmup, self.max_time_seconds
        )
        comm.synchronize()
        slowest = max(comm.all_gather(mean))
        self._log("distributed", 1 / slowest, seconds)

    def _loader(self, dataset: Any, sampler: Any, num_workers: int) -> Any:
        return build_batch_data_loader(
            dataset, sampler, self.total_batch_size, num_workers=num_workers
        )

    def _benchmark(self, iterator: Iterator[Any], num_iter: int, warmup: int, label: str) -> None:
        mean, seconds = iter_benchmark(iterator, num_iter, warmup, self.max_time_seconds)
        self._log(label, 1 / mean, seconds)

    def _log(self, label: str, rate: float, seconds: Sequence[float]) -> None:
        percentiles = [f"{1 / np.percentile(seconds, p):.1f}" for p in (1, 5, 50, 95, 99)]
        logger.info(
            "%s: %.1f iterations/s (percentiles 1, 5, 50, 95, 99 of the time: %s)",
            label,
            rate,
            ", ".join(percentiles),
        )
