"""What happened during training: a storage of scalars, images and histograms, and its writers."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from typing import IO, Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from detectron2.utils._deferred import DeferredScalars, defer, is_remote, settle
from detectron2.utils._histogram import raw_histogram
from detectron2.utils._json_history import drop_superseded_lines
from detectron2.utils._remaining_time import RemainingTime
from detectron2.utils.file_io import PathManager

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_CURRENT_STORAGE_STACK: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The innermost `EventStorage` whose ``with`` block is running.

    Raises:
        AssertionError: no such block is running.
    """
    if not _CURRENT_STORAGE_STACK:
        raise AssertionError(
            "Call get_event_storage() inside 'with EventStorage(start_iter):', as trainers do."
        )
    return _CURRENT_STORAGE_STACK[-1]


def has_event_storage() -> bool:
    """Whether the ``with`` block of an `EventStorage` is running."""
    return bool(_CURRENT_STORAGE_STACK)


class EventStorage:
    """Scalars, images and histograms of one training run, by name and iteration.

    Inside its ``with`` block code anywhere in the program reaches it by `get_event_storage`.
    """

    def __init__(self, start_iter: int = 0) -> None:
        """
        Args:
            start_iter: iteration that the run begins, or resumes, at.
        """
        self._start_iter = start_iter
        self._iter = start_iter
        self._prefix = ""
        self._histories: defaultdict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._deferred: list[DeferredScalars] = []
        self._vis_data: list[tuple[str, torch.Tensor, int]] = []
        self._histograms: list[dict[str, Any]] = []

    def put_image(self, img_name: str, img_tensor: torch.Tensor) -> None:
        """Keep an image until a writer has written it.

        Args:
            img_name: its title.
            img_tensor: (3, H, W) RGB, uint8 in 0..255 or float in [0, 1].
        """
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Append one number to the history of `name`.

        Args:
            name: goes below the running `name_scope`.
            value: anything that `float` accepts; a tensor on a GPU is copied, and read when
                somebody asks for scalars: putting it does not wait for the GPU.
            smoothing_hint: whether the number is noisy, so that writers show its median. A
                name keeps the hint of its first value.
            cur_iter: iteration of the value; None means the current one.

        Raises:
            AssertionError: an earlier value of `name` had the other hint.
        """
        name = self._prefix + name
        iteration = self._iter if cur_iter is None else cur_iter
        if isinstance(value, torch.Tensor) and value.numel() == 1 and is_remote(value):
            defer(self, value, lambda read: {name: read[0]}, iteration, "", smoothing_hint)
        else:
            value = float(value.detach() if isinstance(value, torch.Tensor) else value)
            self._put(name, value, smoothing_hint, iteration)

    def _put(self, name: str, value: float, smoothing_hint: bool, iteration: int) -> None:
        first_hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        if first_hint != smoothing_hint:
            raise AssertionError(
                f"Scalar {name!r} was first put with smoothing_hint={first_hint}, "
                f"now with {smoothing_hint}; use one of them everywhere."
            )
        self._histories[name].update(value, iteration)
        self._latest[name] = (value, iteration)

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any
    ) -> None:
        """`put_scalar` for each keyword argument."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Keep the histogram of a tensor until a writer has written it.

        Args:
            hist_name: its title.
            hist_tensor: any shape.
            bins: number of equal bins between its minimum and its maximum.
        """
        self._histograms.append(
            {"tag": hist_name, "global_step": self._iter, **raw_histogram(hist_tensor, bins)}
        )

    def history(self, name: str) -> HistoryBuffer:
        """All values of one scalar.

        Raises:
            KeyError: nobody has put this scalar.
        """
        settle(self)
        if name not in self._histories:
            raise KeyError(f"No scalar {name!r} has been put; known are {sorted(self._histories)}.")
        return self._histories[name]

    def histories(self) -> Mapping[str, HistoryBuffer]:
        """All values of every scalar."""
        settle(self)
        return self._histories

    def latest(self) -> dict[str, tuple[float, int]]:
        """Newest value of every scalar, with its iteration."""
        settle(self)
        return self._latest

    _latest_scalars, _history = property(latest), property(histories)  # read by others' writers

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like `latest`; noisy scalars are the median of their last `window_size` iterations."""
        result = {}
        for name, (value, iteration) in self.latest().items():
            if self._smoothing_hints[name]:
                count = self.count_samples(name, window_size)
                value = float(self._histories[name].median(count))
            result[name] = (value, iteration)
        return result

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values `name` has in the `window_size` iterations up to its newest value."""
        samples = self.history(name).values()
        oldest = samples[-1][1] - window_size
        return sum(1 for _ in takewhile(lambda sample: sample[1] > oldest, reversed(samples)))

    def smoothing_hints(self) -> dict[str, bool]:
        """Of every scalar, whether it is noisy."""
        settle(self)
        return self._smoothing_hints

    def step(self) -> None:
        """Begin the next iteration."""
        self._iter += 1

    @property
    def iter(self) -> int:
        """Current iteration, counted from 0."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    @property
    def iteration(self) -> int:
        """The same as `iter`."""
        return self._iter

    def __enter__(self) -> EventStorage:
        _CURRENT_STORAGE_STACK.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert _CURRENT_STORAGE_STACK[-1] is self
        _CURRENT_STORAGE_STACK.pop()

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put scalars as ``name/scalar``; replaces an outer scope while its block runs."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def clear_images(self) -> None:
        """Forget the images, which a writer does after writing them."""
        self._vis_data = []

    def clear_histograms(self) -> None:
        """Forget the histograms, which a writer does after writing them."""
        self._histograms = []


class EventWriter:
    """Takes what is new in the current `EventStorage` somewhere: a file, a terminal, a service."""

    def write(self) -> None:
        """Write what is new since the last call."""
        raise NotImplementedError(f"{type(self).__name__} does not define write().")

    def close(self) -> None:
        """Called once, after the last `write`."""


def _newer_than(
    last_iteration: int, storage: EventStorage, window_size: int
) -> list[tuple[str, float, int]]:
    """(name, smoothed value, iteration) of the scalars put after `last_iteration`."""
    latest = storage.latest_with_smoothing_hint(window_size)
    return [(name, value, at) for name, (value, at) in latest.items() if at > last_iteration]


class JSONWriter(EventWriter):
    """Appends one JSON object per line: ``{"iteration": 19, "total_loss": 2.8, ...}``.

    Scalars that were put at different iterations go on different lines. A resumed run takes
    over the file: lines of the iterations that it runs again, and the half line that a killed
    process may have left, are removed at its first write.
    """

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """
        Args:
            json_file: path or address of the file, which is created at the first write.
            window_size: iterations of which noisy scalars are the median.
        """
        self._path = json_file
        self._window_size = window_size
        self._last_write = -1
        self._stream: IO[str] | None = None

    def write(self) -> None:
        """Append the scalars that are newer than the last written iteration."""
        storage = get_event_storage()
        if self._stream is None:
            self._stream = self._take_over(storage._start_iter)
        lines: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for name, value, iteration in _newer_than(self._last_write, storage, self._window_size):
            lines[iteration][name] = value
        if not lines:
            return
        for iteration in sorted(lines):
            entry = {**lines[iteration], "iteration": iteration}
            self._stream.write(json.dumps(entry, sort_keys=True) + "\n")
        self._last_write = max(lines)
        self._stream.flush()
        if hasattr(self._stream, "fileno"):
            os.fsync(self._stream.fileno())

    def _take_over(self, start_iter: int) -> IO[str]:
        if "://" not in self._path and os.path.isfile(self._path):
            newest = drop_superseded_lines(self._path, start_iter)
            # A resumed run knows the scalars of the iteration before it, which may be written.
            self._last_write = max(self._last_write, newest) if start_iter > 0 else -1
        return PathManager.open(self._path, "a")

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms as a TensorBoard event file."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """
        Args:
            log_dir: folder of the event file, which is created at the first write.
            window_size: iterations of which noisy scalars are the median.
            **kwargs: for ``torch.utils.tensorboard.SummaryWriter``.
        """
        self._log_dir = log_dir
        self._window_size = window_size
        self._writer_options = kwargs
        self._last_write = -1

    @functools.cached_property
    def _writer(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorboardXWriter needs the package 'tensorboard': pip install tensorboard."
            ) from error
        options = dict(self._writer_options)
        if start := get_event_storage()._start_iter:
            # What an interrupted run wrote from here on is written again.
            options.setdefault("purge_step", start)
        return SummaryWriter(self._log_dir, **options)

    def write(self) -> None:
        """Write scalars newer than the last call, and every image and histogram kept so far."""
        storage = get_event_storage()
        # What a resumed run knows of earlier iterations was written by the run before it.
        written = max(self._last_write, storage._start_iter - 1)
        scalars = _newer_than(written, storage, self._window_size)
        for name, value, iteration in scalars:
            self._writer.add_scalar(name, value, iteration)
        if scalars:
            self._last_write = max(iteration for _, _, iteration in scalars)
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        """Close the event file, if there is one."""
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line with losses, times, learning rate, memory and the time that is left."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        """
        Args:
            max_iter: iterations of the whole run; None means that no remaining time is shown.
            window_size: iterations of which losses are the median and ``data_time`` the mean.
        """
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._remaining_time = RemainingTime(max_iter)

    def write(self) -> None:
        """Log the line of the current iteration, unless training is over."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            # Everything about the last iteration was logged when it ended.
            return
        eta = self._remaining_time.at(storage)
        rate = storage.histories().get("lr")
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        fields = [
            f"eta: {eta}" if eta else None,
            f"iter: {storage.iter}",
            *self._metrics(storage),
            *self._times(storage),
            f" lr: {rate.latest():.5g}" if rate is not None else " lr: N/A",
            f"max_mem: {peak / 2**20:.0f}M" if peak else None,
        ]
        self.logger.info(" " + "  ".join(field for field in fields if field))

    def _metrics(self, storage: EventStorage) -> list[str]:
        result = []
        for mark in ("loss", "[metric]"):
            for name, history in storage.histories().items():
                if mark in name:
                    count = storage.count_samples(name, self._window_size)
                    result.append(f"{name}: {history.median(count):.4g}")
        return result

    def _times(self, storage: EventStorage) -> list[str]:
        histories = storage.histories()
        result = []
        if "time" in histories:
            history = histories["time"]
            result.append(f"time: {history.global_avg():.4f}  last_time: {history.latest():.4f}")
        if "data_time" in histories:
            history = histories["data_time"]
            mean = history.avg(storage.count_samples("data_time", self._window_size))
            result.append(f"data_time: {mean:.4f}  last_data_time: {history.latest():.4f}")
        return result
