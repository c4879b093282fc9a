"""What the GPU needs next goes to it while it still computes what it was given last."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detectron2.structures._transfer import on_device

__all__ = ["BatchesAhead", "CopyAhead", "InputsAhead", "data_position"]


class CopyAhead:
    """Copies batches to a GPU on a stream of their own."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        """
        Args:
            cuda: what has the streams; tests bring their own.
        """
        self._device = device
        self._cuda = cuda
        self._stream = cuda.Stream(device)
        self._copies: list[Tensor] = []

    def start(self, batch: Any) -> Any:
        """The batch with its tensors on the GPU, which are complete after `finish`.

        Fields and values that have a ``to`` of their own, defined outside of this package, stay
        where they are.
        """
        with self._cuda.stream(self._stream):
            return on_device(batch, self._device, self._copies)

    def finish(self) -> None:
        """Let later work on the current stream wait for the copies; the host does not."""
        current = self._cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in self._copies:
            # The memory belongs to the other stream, which would take it back too early.
            tensor.record_stream(current)
        self._copies = []


class InputsAhead:
    """Inputs of a model, made by one thread on a stream of their own and used by another.

    On the stream of the model they would only be made when all is computed that it was given
    before.
    """

    def __init__(self, device: torch.device | None, cuda: Any = torch.cuda) -> None:
        """
        Args:
            device: of the model; nothing is special without a GPU.
            cuda: what has the streams; tests bring their own.
        """
        self._device = device
        self._cuda = cuda
        has_streams = device is not None and (device.type == "cuda" or cuda is not torch.cuda)
        self._stream = cuda.Stream(device) if has_streams else None

    def make(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        """``function(*arguments)``, a dictionary whose tensors go to the GPU; and what `take`
        waits for."""
        if self._stream is None or self._device is None:
            return function(*arguments), None
        with self._cuda.stream(self._stream):
            made = on_device(function(*arguments), self._device, [])
            return made, self._stream.record_event()

    def take(self, made: tuple[dict[str, Any], Any]) -> dict[str, Any]:
        """What was made, for work on the current stream, which waits; the host does not."""
        values, event = made
        if event is not None:
            current = self._cuda.current_stream(self._device)
            current.wait_event(event)
            for value in values.values():
                if isinstance(value, Tensor):
                    value.record_stream(current)  # else its memory were given back too early
        return values


class BatchesAhead:
    """The batches of a trainer, fetched one step ahead where its model is on a GPU."""

    def __init__(self, make_copier: Callable[[torch.device], CopyAhead] = CopyAhead) -> None:
        """
        Args:
            make_copier: called with the device of the model when first needed.
        """
        self._make_copier = make_copier
        self._copier: CopyAhead | None = None
        self.clear()

    def clear(self) -> None:
        """Forget what was fetched."""
        self._batches: list[Any] = []
        self._seconds = 0.0
        self._position: Any = None
        self._error: Exception | None = None

    def fetch(self, trainer: Any) -> None:
        """Fetch the batches of the next step, if there is one. An error is kept for `take`."""
        device = next(trainer.model.parameters()).device
        wanted = device.type == "cuda" if trainer.prefetch is None else trainer.prefetch
        if not wanted or trainer.iter + 1 >= trainer.max_iter:
            return
        start = time.perf_counter()
        self._position = _position(trainer.data_loader)
        self._copier = self._copier or self._make_copier(device)
        try:
            for _ in range(trainer.accumulation_steps):
                self._batches.append(self._copier.start(trainer.fetch_data()))
        except RuntimeError as error:
            self._error = error
        self._seconds = time.perf_counter() - start

    def take(self, trainer: Any) -> tuple[list[Any], float]:
        """The batches of a step, and the seconds that were waited for them.

        Raises:
            RuntimeError: that of `fetch_data`.
        """
        start = time.perf_counter() - self._seconds
        batches, error = self._batches, self._error
        self.clear()
        if batches and self._copier is not None:
            self._copier.finish()
        if error is not None:
            raise error
        while len(batches) < trainer.accumulation_steps:
            batches.append(trainer.fetch_data())
        return batches, time.perf_counter() - start

    def position(self, loader: Any) -> dict[str, Any]:
        """Where the training is in the data, as plain data; {} if the loader does not know.

        What was fetched ahead counts as not fetched: a resumed training fetches it again.
        """
        return self._position if self._batches or self._error else _position(loader)


def data_position(trainer: Any) -> dict[str, Any]:
    """`BatchesAhead.position` of a trainer; of its loader, if it fetches nothing ahead."""
    ahead = getattr(trainer, "_ahead", None)
    loader = trainer.data_loader
    return _position(loader) if ahead is None else ahead.position(loader)


def _position(loader: Any) -> dict[str, Any]:
    return loader.state_dict() if hasattr(loader, "state_dict") else {}
