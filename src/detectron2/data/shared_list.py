"""One copy of a dataset for all processes of a machine."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detectron2.data.common import _TorchSerializedList
from detectron2.utils import comm

__all__ = ["RankSharedList", "list_container"]

# Memory that looks like a folder, where the system has it.
_SHARED_MEMORY = Path("/dev/shm")


def list_container() -> Any:
    """What `DatasetFromList(serialize=...)` takes: one list for all ranks of this machine.

    A single rank, or ranks without a group of their machine, keep a list each.
    """
    try:
        several = comm.get_local_size() > 1 and comm.get_local_process_group() is not None
    except RuntimeError:
        several = False
    return RankSharedList if several else True


class RankSharedList(_TorchSerializedList):
    """A serialized list that the ranks of a machine read from the same memory.

    All ranks of the machine have to make it at the same time, of equal lists. The first one
    serializes its list into a file in memory, which the others map; the file then loses its name,
    so that nothing is left when the processes end, however they end.
    """

    def __init__(self, lst: Sequence[Any]) -> None:
        group = comm.get_local_process_group()
        first = comm.get_local_rank() == 0
        place = None
        if first:
            super().__init__(lst)
            place = self._write()
        told = comm.all_gather((len(lst), _mark(lst), place), group)
        lengths = {row[:2] for row in told}
        path, sizes = next(row[2] for row in told if row[2] is not None)
        try:
            if len(lengths) > 1:
                raise ValueError(
                    f"The processes of this machine have different datasets, of "
                    f"{[row[0] for row in told]} elements; each must load the same."
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
        folder = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        handle, path = tempfile.mkstemp(prefix="detectron2-dataset-", dir=folder)
        os.close(handle)
        os.unlink(path)
        for suffix, tensor in ((".block", self._block), (".ends", self._ends)):
            tensor.numpy().tofile(path + suffix)
        return path, (len(self._block), len(self._ends))


def _mark(lst: Sequence[Any]) -> int:
    """A number that differs between lists that begin or end differently."""
    return zlib.crc32(repr((lst[:1], lst[-1:])).encode())
