"""One copy of a dataset for all processes of a machine."""

from __future__ import annotations

import os
import pickle
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detectron2.data.catalog import MetadataCatalog
from detectron2.data.common import DatasetFromList, _TorchSerializedList
from detectron2.utils import comm

__all__ = ["RankSharedList", "list_container", "load_once_per_machine"]

# Memory that looks like a folder, where the system has it.
SHARED_MEMORY = Path("/dev/shm")


def list_container() -> Any:
    """What `DatasetFromList(serialize=...)` takes: one list for all ranks of this machine.

    A single rank, or ranks without a group of their machine, keep a list each.
    """
    return RankSharedList if _are_several() else True


def _are_several() -> bool:
    """Whether this machine has several ranks that can talk to each other."""
    try:
        return comm.get_local_size() > 1 and comm.get_local_process_group() is not None
    except RuntimeError:
        return False


def load_once_per_machine(load: Callable[[], Any], names: Sequence[str]) -> Any:
    """What `load` returns; of several ranks on a machine, one loads and the others share.

    All ranks of the machine have to call it at the same time.

    Args:
        load: returns a list of records. Anything else each rank loads for itself.
        names: of the datasets; what loading added to their metadata is shared, too.

    Returns:
        The list; for several ranks a `DatasetFromList` of one copy of it.

    Raises:
        RuntimeError: on the ranks that wait, if loading failed; the one that loads raises the
            error itself.
    """
    if not _are_several():
        return load()
    group = comm.get_local_process_group()
    first = comm.get_local_rank() == 0
    loaded, problem, metadata = None, None, {}
    if first:
        try:
            loaded = load()
            metadata = {name: plain_metadata(name) for name in names}
        except Exception as error:
            comm.all_gather(("failed", f"{type(error).__name__}: {error}", {}), group)
            raise
        problem = None if isinstance(loaded, list) else "no list"
    told = comm.all_gather((problem, None, metadata) if first else None, group)
    problem, reason, metadata = next(row for row in told if row is not None)
    if problem == "failed":
        raise RuntimeError(f"The first process of this machine cannot load the dataset. {reason}")
    if not first:
        for name, entries in metadata.items():
            take_over_metadata(name, entries)
    if problem == "no list":
        return loaded if first else load()
    return DatasetFromList(loaded, copy=False, serialize=RankSharedList)  # type: ignore[arg-type]


def plain_metadata(name: str) -> dict[str, Any]:
    """Metadata that can be sent; what cannot was registered by code that all ranks run."""
    entries = {}
    for key, value in MetadataCatalog.get(name).as_dict().items():
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError):
            continue
        entries[key] = value
    return entries


def take_over_metadata(name: str, entries: Mapping[str, Any]) -> None:
    metadata = MetadataCatalog.get(name)
    known = metadata.as_dict()
    metadata.set(**{key: value for key, value in entries.items() if key not in known})


class RankSharedList(_TorchSerializedList):
    """A serialized list that the ranks of a machine read from the same memory.

    All ranks of the machine have to make it at the same time, of equal lists, or all but the
    first one of None. The first one serializes its list into a file in memory, which the others
    map; the file then loses its name, so that nothing is left when the processes end, however
    they end.
    """

    def __init__(self, lst: Sequence[Any] | None) -> None:
        group = comm.get_local_process_group()
        first = comm.get_local_rank() == 0
        place = None
        if first:
            assert lst is not None
            super().__init__(lst)
            place = self._write()
        own = None if lst is None else (len(lst), _mark(lst))
        told = comm.all_gather((own, place), group)
        lengths = {row[0] for row in told if row[0] is not None}
        path, sizes = next(row[1] for row in told if row[1] is not None)
        try:
            if len(lengths) > 1:
                raise ValueError(
                    f"The processes of this machine have different datasets, of "
                    f"{[row[0][0] for row in told if row[0]]} elements; each must load the same."
                )
            self._block = torch.from_file(
                f"{path}.block", shared=True, size=sizes[0], dtype=torch.uint8
            )
            self._ends = torch.from_file(
                f"{path}.ends", shared=True, size=sizes[1], dtype=torch.int64
            )
        finally:
            # Every rank comes here, also one that found an error, before the name goes.
            comm.all_gather(None, group)
            if first:
                for suffix in (".block", ".ends"):
                    Path(path + suffix).unlink()

    def _write(self) -> tuple[str, tuple[int, int]]:
        """Write the block and its ends to files; their common name and their lengths."""
        folder = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        handle, path = tempfile.mkstemp(prefix="detectron2-dataset-", dir=folder)
        os.close(handle)
        os.unlink(path)
        for suffix, tensor in ((".block", self._block), (".ends", self._ends)):
            tensor.numpy().tofile(path + suffix)
        return path, (len(self._block), len(self._ends))


def _mark(lst: Sequence[Any]) -> int:
    """A number that differs between lists that begin or end differently."""
    return zlib.crc32(repr((lst[:1], lst[-1:])).encode())
