"""Going on with an evaluation that was killed."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from detectron2.utils import comm

__all__ = ["model_identity", "prepare"]

logger = logging.getLogger(__name__)


def prepare(model: Any, data_loader: Iterable[Any], evaluator: Any, resume: bool) -> Iterable[Any]:
    """Tell the evaluator what comes, and return the batches that are left to do."""
    if not hasattr(evaluator, "begin"):  # not derived from DatasetEvaluator
        return data_loader
    evaluator.begin({"model": model_identity(model)}, resume)
    if not resume:
        return data_loader
    comm.synchronize()  # no process writes before all have read what is there
    return _unfinished(data_loader, evaluator)


def model_identity(model: Any) -> str:
    """A checksum of the weights; of anything but a module, its type."""
    if not isinstance(model, nn.Module):
        return type(model).__name__
    module = getattr(model, "module", model)
    checksum = 0
    # Not its state_dict(), which takes a sharded model apart again.
    for name, value in chain(module.named_parameters(), module.named_buffers()):
        checksum = zlib.crc32(name.encode(), checksum)
        # A copy: memory that NumPy has seen cannot be freed, which sharded models do.
        copy = value.detach().to("cpu", copy=True)
        memory = copy.contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(memory.numpy(), checksum)
    return f"{type(module).__name__}-{checksum:08x}"


def _unfinished(data_loader: Iterable[Any], evaluator: Any) -> Iterable[Any]:
    def finished(batch: Any) -> bool:
        records = batch if isinstance(batch, list) else [batch]
        return all(isinstance(r, Mapping) and evaluator.is_finished(r) for r in records)

    loader = _without_loading(data_loader, finished)
    return loader if loader is not None else _Rest(data_loader, finished)


def _without_loading(data_loader: Any, finished: Any) -> DataLoader[Any] | None:
    """A loader that does not even read the images of finished batches.

    None if the records behind the loader are not at hand, and only the loaded batch tells.
    """
    records = getattr(getattr(data_loader, "dataset", None), "_dataset", None)
    batches = getattr(data_loader, "batch_sampler", None)
    if not isinstance(data_loader, DataLoader) or batches is None or records is None:
        return None
    if not hasattr(records, "__getitem__"):
        return None
    left = [batch for batch in batches if not finished([records[index] for index in batch])]
    return DataLoader(
        data_loader.dataset,
        batch_sampler=left,
        num_workers=data_loader.num_workers,
        collate_fn=data_loader.collate_fn,
        worker_init_fn=data_loader.worker_init_fn,
    )


class _Rest:
    """The batches of a loader that are not finished."""

    def __init__(self, data_loader: Iterable[Any], finished: Any) -> None:
        self._data_loader, self._finished = data_loader, finished

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch in self._data_loader if not self._finished(batch))
