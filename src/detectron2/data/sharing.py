"""Records that the first rank of a machine which needs them reads for those which come later.

Unlike `load_once_per_machine` nobody has to come: a rank alone reads for itself.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from detectron2.data.common import DatasetFromList, _TorchSerializedList
from detectron2.data.shared_list import SHARED_MEMORY, plain_metadata, take_over_metadata
from detectron2.utils import comm

__all__ = ["share_with_later_ranks"]

logger = logging.getLogger(__name__)

# How often this process has come for the records of some names: the ranks' n-th calls belong
# together.
_calls: Counter[str] = Counter()


def share_with_later_ranks(load: Callable[[], Any], names: Sequence[str]) -> Any:
    """What `load` returns. Of several ranks on a machine the first to come reads.

    Args:
        load: returns a list of records. Anything else each rank loads for itself.
        names: of the datasets; what loading added to their metadata is shared, too.

    Returns:
        The list, or a `DatasetFromList` of it that ranks of this machine share.
    """
    store = _store()
    if store is None:
        return load()
    what = json.dumps([socket.gethostname(), *names])
    key = f"detectron2/records/{what}/{_calls[what]}"
    _calls[what] += 1
    if store.add(f"{key}/claimed", 1) > 1:
        shared = _take(store, key)
        return load() if shared is None else shared
    return _read_and_offer(load, names, store, key)


def _store() -> Any | None:
    """Where ranks leave messages for each other; None if this rank has no company here."""
    if comm.get_world_size() == 1 or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        if comm.get_local_size() == 1:
            return None
    except RuntimeError:  # nobody has said which ranks are on this machine
        return None
    return dist.distributed_c10d._get_default_store()


def _read_and_offer(load: Callable[[], Any], names: Sequence[str], store: Any, key: str) -> Any:
    offer: dict[str, Any] = {}
    try:
        loaded = load()
        if isinstance(loaded, list):
            serialized = _OfferedList(loaded)
            offer = {**serialized.offer(), "metadata": {n: plain_metadata(n) for n in names}}
            loaded = DatasetFromList(loaded, copy=False, serialize=lambda _: serialized)
        return loaded
    finally:
        # Also where reading failed: those who wait then find out for themselves.
        store.set(key, pickle.dumps(offer).hex())


def _take(store: Any, key: str) -> DatasetFromList | None:
    """What the first rank offers; None if there is nothing, or it is gone."""
    try:
        store.wait([key])
        offer = pickle.loads(bytes.fromhex(store.get(key).decode()))
        if not offer:
            return None
        shared = _TakenList(offer)
    except (dist.DistError, RuntimeError, OSError) as error:
        logger.info("The records are read by each process: %s", error)
        return None
    for name, entries in offer["metadata"].items():
        take_over_metadata(name, entries)
    return DatasetFromList([], copy=False, serialize=lambda _: shared)


class _OfferedList(_TorchSerializedList):
    """A serialized list in a file without a name, which other processes find by this one's id."""

    def __init__(self, lst: Sequence[Any]) -> None:
        super().__init__(lst)
        folder = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        self._sizes = len(self._block), len(self._ends)
        self._places = []
        for name in ("_block", "_ends"):
            tensor = getattr(self, name)
            handle, path = tempfile.mkstemp(prefix="detectron2-records-", dir=folder)
            try:
                with open(handle, "wb", closefd=False) as stream:
                    tensor.numpy().tofile(stream)
                mapped = torch.from_file(path, shared=True, size=len(tensor), dtype=tensor.dtype)
            finally:
                os.unlink(path)
            setattr(self, name, mapped)
            weakref.finalize(self, os.close, handle)
            self._places.append(f"/proc/{os.getpid()}/fd/{handle}")

    def offer(self) -> dict[str, Any]:
        return {"places": self._places, "sizes": self._sizes}


class _TakenList(_TorchSerializedList):
    """The list that another process of this machine offers."""

    def __init__(self, offer: dict[str, Any]) -> None:
        block, ends = offer["places"]
        sizes = offer["sizes"]
        self._block = torch.from_file(block, shared=True, size=sizes[0], dtype=torch.uint8)
        self._ends = torch.from_file(ends, shared=True, size=sizes[1], dtype=torch.int64)
