"""Recorded runs of the part of a model that depends on the shape of its input alone.

A small convolution on a large GPU takes less time than PyTorch needs to launch it. A CUDA graph
launches all kernels of a trunk and its head at once; it is recorded for one shape and one place
in memory, so images are padded to a few shapes, the buckets.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["CudaRecorder", "Recorder", "Recording", "TrunkGraphs", "padded"]

logger = logging.getLogger(__name__)

# PyTorch records one graph at a time: before it begins it waits for the GPU, and that breaks off
# what another thread records, say of another model.
_ONE_AT_A_TIME = threading.Lock()
# PyTorch's notes on CUDA graphs ask for some runs on a side stream before the recorded one.
_WARM_UP_RUNS = 3
# Larger than the images by more than this, a bucket costs more than the launches.
_MOST_WASTE = 2.0


class Recording(Protocol):
    """A recorded run: `replay` reads the input it was recorded with and writes `output`."""

    output: Any

    def replay(self) -> None: ...


Recorder = Callable[[Callable[[Tensor], Any], Tensor], Recording]


class CudaRecording:
    """A CUDA graph and the tensors that it writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, output: Any) -> None:
        self.output = output
        self._graph = graph

    def replay(self) -> None:
        self._graph.replay()


class CudaRecorder:
    """Records on the GPU of the images; recordings that live together share one pool of memory.

    They may, because they run one after the other, each when the output of the one before it is
    no longer read.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        """
        Args:
            cuda: what has the streams and graphs; tests bring their own.
        """
        self._cuda = cuda
        self._living: weakref.WeakSet[CudaRecording] = weakref.WeakSet()
        self._failed: list[Any] = []
        self._start_anew()

    def _start_anew(self) -> None:
        self._pool: Any = None
        self._streams: dict[torch.device, Any] = {}

    def __call__(self, function: Callable[[Tensor], Any], images: Tensor) -> Recording:
        device = images.device
        # PyTorch records on the current GPU, which need not be the one of the model: a recording
        # of the other one would be empty. And where recording fails, PyTorch leaves its own
        # stream as the current one, which the outer of these blocks puts back.
        with self._cuda.device(device), self._cuda.stream(self._cuda.current_stream(device)):
            self._warm_up(function, images)
            with _ONE_AT_A_TIME:
                return self._capture(function, images)

    def _warm_up(self, function: Callable[[Tensor], Any], images: Tensor) -> None:
        current = self._cuda.current_stream(images.device)
        stream = self._cuda.Stream(images.device)
        stream.wait_stream(current)
        with self._cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                function(images)
        current.wait_stream(stream)

    def _capture(self, function: Callable[[Tensor], Any], images: Tensor) -> CudaRecording:
        if self._pool is None or not self._living:
            # PyTorch gives a pool up with its last graph, and refuses to record into it again.
            self._pool = self._cuda.graph_pool_handle()
        stream = self._streams.get(images.device)
        if stream is None:
            stream = self._streams[images.device] = self._cuda.Stream(images.device)
        graph = self._cuda.CUDAGraph()
        try:
            # Other threads, which prepare the next images, go on with what they do.
            with self._cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            ):
                output = function(images)
        except BaseException:
            # Versions of PyTorch up to 2.11 believe that this recording goes on: they ask the
            # graph about it whenever memory is taken, and let none other into its pool.
            self._failed.append(graph)
            self._start_anew()
            raise
        recording = CudaRecording(graph, output)
        self._living.add(recording)
        return recording


class Fence:
    """Keeps a stream from overwriting what work on another one still reads."""

    def __init__(self, cuda: Any = torch.cuda) -> None:
        """
        Args:
            cuda: what has the streams; tests bring their own.
        """
        self._cuda = cuda
        self._last_read: Any = None

    def wait(self, device: torch.device) -> None:
        """Let later work on the current stream wait for what came before the last `set`."""
        if self._last_read is not None:
            self._cuda.current_stream(device).wait_event(self._last_read)

    def set(self, device: torch.device) -> None:
        """Everything on the current stream up to here has to be done before the next `wait`."""
        self._last_read = self._cuda.current_stream(device).record_event()


class _Recorded:
    """A recording with its input."""

    def __init__(self, recording: Recording, images: Tensor) -> None:
        self.recording = recording
        self.images = images


class TrunkGraphs:
    """Recordings of one function of images, by batch size and bucket.

    The first batch of a shape runs as it is; the second is recorded; from then on the recording
    is replayed. What cannot be recorded goes on running as it is.

    Attributes:
        buckets: (height, width) that batches are padded to.
        capacity: recordings that are kept, those used last.
        fence: keeps a call on another stream from what is still read.
    """

    def __init__(
        self,
        buckets: Sequence[tuple[int, int]],
        recorder: Recorder | None = None,
        capacity: int = 4,
    ) -> None:
        """
        Args:
            recorder: by default one of CUDA graphs.

        Raises:
            ValueError: a bucket is no pair of positive numbers, or the capacity is not positive.
        """
        self.buckets = tuple((int(height), int(width)) for height, width in buckets)
        if not self.buckets or any(min(bucket) < 1 for bucket in self.buckets):
            raise ValueError(
                f"cuda_graphs is {list(buckets)}; give one or more (height, width) in pixels."
            )
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; use at least 1.")
        self.capacity = capacity
        self.fence = Fence()
        self._lock = threading.RLock()
        self._replayed_on: torch.device | None = None
        self._recorder = recorder
        self._record: Recorder = CudaRecorder() if recorder is None else recorder
        self._recorded: OrderedDict[Any, _Recorded] = OrderedDict()
        self._seen: set[Any] = set()
        self._failed: set[Any] = set()
        self._state: Any = None

    def __reduce__(self) -> Any:
        # Copies and pickles record anew.
        return TrunkGraphs, (self.buckets, self._recorder, self.capacity)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Surrounds a call and what reads its output, which the next call overwrites; other
        threads wait meanwhile, and their GPU streams too."""
        with self._lock:
            try:
                yield
            finally:
                device, self._replayed_on = self._replayed_on, None
                if device is not None:
                    self.fence.set(device)

    def applies_to(self, images: Tensor) -> bool:
        """Whether it can record on the device of `images`."""
        return images.is_cuda or self._recorder is not None

    def bucket_of(self, height: int, width: int, multiple: int = 1) -> tuple[int, int] | None:
        """The smallest bucket that holds a batch; None where none does, or only with much waste.

        Args:
            height, width: of the batch.
            multiple: what sides of a bucket must be divisible by.
        """
        fitting = [
            bucket
            for bucket in self.buckets
            if bucket[0] >= height
            and bucket[1] >= width
            and bucket[0] * bucket[1] <= _MOST_WASTE * height * width
            and bucket[0] % multiple == bucket[1] % multiple == 0
        ]
        return min(fitting, key=lambda bucket: bucket[0] * bucket[1], default=None)

    def __call__(
        self, function: Callable[[Tensor], Any], images: Tensor, bucket: tuple[int, int], state: Any
    ) -> Any:
        """``function`` of the images with zeros at the right and at the bottom.

        Args:
            function: nothing but its argument and what `state` stands for may matter.
            images: (N, C, H, W).
            bucket: what they are padded to.
            state: recordings are thrown away when it changes: of weights and settings.

        Returns:
            What `function` returns; it may be overwritten after the `in_use` around the call.
        """
        if state != self._state:
            self.clear()
            self._state = state
        key = (*images.shape[:2], *bucket, images.dtype, images.device)
        recorded = self._recorded.get(key)
        if recorded is None and key in self._seen and key not in self._failed:
            recorded = self._try_to_record(function, key, padded(images, bucket))
        self._seen.add(key)
        if recorded is None:
            return function(padded(images, bucket))
        self._recorded.move_to_end(key)
        if images.device.type != "cpu":
            self.fence.wait(images.device)
            self._replayed_on = images.device
        write_padded(recorded.images, images)
        recorded.recording.replay()
        return recorded.recording.output

    def clear(self) -> None:
        """Forget all recordings."""
        self._recorded.clear()
        self._seen.clear()
        self._failed.clear()

    def _try_to_record(
        self, function: Callable[[Tensor], Any], key: Any, images: Tensor
    ) -> _Recorded | None:
        while len(self._recorded) >= self.capacity:
            self._recorded.popitem(last=False)
        try:
            recorded = _Recorded(self._record(function, images), images)
        except RuntimeError as error:  # of capture, of the allocator, of a kernel that waits
            self._failed.add(key)
            reason = str(error).partition("\n")[0]
            logger.warning("Batches of %s run without a CUDA graph: %s", key[:4], reason)
            return None
        self._recorded[key] = recorded
        return recorded


def padded(images: Tensor, bucket: tuple[int, int]) -> Tensor:
    """(N, C, *bucket) with the images in the top left corner."""
    batch = images.new_empty(*images.shape[:2], *bucket)
    write_padded(batch, images)
    return batch


def write_padded(batch: Tensor, images: Tensor) -> None:
    """Overwrite `batch` with the images, and zeros at the right and at the bottom of them."""
    height, width = images.shape[2:]
    batch[:, :, :height, :width].copy_(images)
    batch[:, :, height:].zero_()
    batch[:, :, :height, width:].zero_()
