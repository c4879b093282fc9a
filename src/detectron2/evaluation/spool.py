"""Predictions on disk while an evaluation runs: memory stays flat, and a killed run can go on.

A spool is a list of predictions whose items are written to a file as they are appended and read
again when somebody asks for them. Each process has a file of its own; the main process reads the
files of all, so predictions are not sent around. Every record carries a checksum: what a killed
process left half-written is cut off when the file is opened again.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import struct
import tempfile
import weakref
import zlib
from collections.abc import Hashable, Iterator, Mapping, MutableSequence, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from detectron2.evaluation import records
from detectron2.utils import comm

__all__ = ["PredictionSpool", "gather_predictions", "spool_folder"]

logger = logging.getLogger(__name__)

_CACHE_BYTES = 64 << 20  # of records whose items are kept as well: small evaluations read nothing
_MAGIC = b"detectron2 predictions 1\n"
_FRAME = struct.Struct("<QI")  # length and CRC-32 of a record


def spool_folder(output_dir: str | None) -> str | None:
    """Where the spool of an evaluation goes whose results go to `output_dir`."""
    return None if output_dir is None else os.path.join(output_dir, ".unfinished")


class SpoolFile:
    """A file of records that is appended to; `offsets` says where each begins."""

    def __init__(self, path: Path, stream: FileIO, offsets: list[int], end: int) -> None:
        self.path = path
        self.offsets = offsets
        self._stream = stream
        self._end = end
        weakref.finalize(self, stream.close)

    @classmethod
    def create(cls, path: Path) -> SpoolFile:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = FileIO(path, "w+")
        stream.write(_MAGIC)
        return cls(path, stream, [], len(_MAGIC))

    @classmethod
    def open(cls, path: Path, writable: bool = True) -> SpoolFile | None:
        """The whole records of a file, or None if there is no such file of ours."""
        try:
            stream = FileIO(path, "r+" if writable else "r")
        except OSError:
            return None
        if stream.read(len(_MAGIC)) != _MAGIC:
            stream.close()
            return None
        offsets, end = [], len(_MAGIC)
        while (after := _whole_record(stream, end)) is not None:
            offsets.append(end)
            end = after
        if writable:
            stream.truncate(end)
        return cls(path, stream, offsets, end)

    def append(self, payload: bytes) -> int:
        """Write a record and return where it begins.

        Raises:
            OSError: it cannot be written; the file ends where it did.
        """
        frame = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        self._stream.seek(self._end)
        try:
            written = 0
            while written < len(frame):
                written += self._stream.write(frame[written:])
        except OSError:
            self._stream.truncate(self._end)
            raise
        self.offsets.append(self._end)
        self._end += len(frame)
        return self.offsets[-1]

    def read(self, offset: int) -> bytes:
        self._stream.seek(offset)
        length, _ = _FRAME.unpack(self._stream.read(_FRAME.size))
        return self._stream.read(length)

    def unlink(self) -> None:
        """Remove the file's name. It can still be read here, until this object is gone."""
        try:
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()
        except OSError:  # the folder holds other files, or the system keeps open files
            logger.debug("%s stays until the process ends", self.path)


def _whole_record(stream: FileIO, start: int) -> int | None:
    """Where the record at `start` ends, if all of it is there."""
    stream.seek(start)
    frame = stream.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    length, checksum = _FRAME.unpack(frame)
    payload = stream.read(length)
    if len(payload) < length or zlib.crc32(payload) != checksum:
        return None
    return start + _FRAME.size + length


class _Entry:
    """Where an item is: at `offset` of `file`, in memory, or (small evaluations) both."""

    __slots__ = ("file", "item", "offset")

    def __init__(self, item: Any = None, file: SpoolFile | None = None, offset: int = 0) -> None:
        self.item, self.file, self.offset = item, file, offset

    def load(self) -> Any:
        if self.item is not None or self.file is None:
            return self.item
        return records.decode(self.file.read(self.offset))

    def checksum(self) -> int:
        """Of the record, which tells its file from another one of the same name."""
        return 0 if self.file is None else zlib.crc32(self.file.read(self.offset))


class PredictionSpool(MutableSequence[dict[str, Any]]):
    """A list of predictions that live on disk.

    It pickles as the plain list of its items, so code that gathers predictions itself works.

    Attributes:
        restored: keys of the predictions that an earlier run has left.
    """

    def __init__(
        self,
        folder: str | None,
        name: str,
        rank: int = 0,
        key: tuple[str, ...] = ("image_id",),
    ) -> None:
        """
        Args:
            folder: where the file goes, and stays if the process dies; None is a temporary
                folder that goes with the process.
            name: of the evaluation, the same on all ranks.
            rank: of the process.
            key: entries of a prediction that tell it from all others.
        """
        self._stem = re.sub(r"[^\w.-]+", "_", name)
        self._rank = rank
        self._key = key
        self._folder = None if folder is None or "://" in folder else Path(folder)
        self._identity: Mapping[str, Any] = {}
        self._file: SpoolFile | None = None
        self._entries: list[_Entry] = []
        self._cached = 0
        self.restored: frozenset[Hashable] = frozenset()

    # ------------------------------------------------------------------ a list

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [entry.load() for entry in self._entries[index]]
        return self._entries[index].load()

    def __iter__(self) -> Iterator[Any]:
        return (entry.load() for entry in list(self._entries))

    @property
    def is_large(self) -> bool:
        """Whether predictions are on disk alone: all of them in memory may be too many."""
        return any(entry.item is None for entry in self._entries)

    def __setitem__(self, index: Any, item: Any) -> None:
        if isinstance(index, slice):
            self._entries[index] = [self._stored(each) for each in item]
        else:
            self._entries[index] = self._stored(item)

    def __delitem__(self, index: Any) -> None:
        del self._entries[index]

    def insert(self, index: int, item: Any) -> None:
        """Put an item in front of `index`, unless an earlier run has left it already."""
        if not self.restored or self._key_of(item) not in self.restored:
            self._entries.insert(index, self._stored(item))

    def __reduce__(self) -> Any:
        return list, (list(self),)

    def _key_of(self, item: Any) -> Hashable:
        if not isinstance(item, Mapping):
            return None
        values = tuple(item.get(name) for name in self._key)
        return values[0] if len(values) == 1 else values

    def _stored(self, item: Any) -> _Entry:
        try:
            payload = records.encode(item)
        except TypeError as error:
            logger.debug("A prediction stays in memory: %s", error)
            return _Entry(item)
        try:
            file = self._opened()
            offset = file.append(payload)
        except OSError as error:
            logger.warning("Predictions stay in memory, they cannot be written: %s", error)
            return _Entry(item)
        self._cached += len(payload)
        return _Entry(item if self._cached <= _CACHE_BYTES else None, file, offset)

    def _opened(self) -> SpoolFile:
        if self._file is None:
            folder = self._folder
            if folder is None:
                folder = Path(tempfile.mkdtemp(prefix="detectron2_evaluation_"))
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._file = SpoolFile.create(self._path(folder, self._rank))
            self._file.append(records.encode(dict(self._identity)))
        return self._file

    def _path(self, folder: Path, rank: int | str) -> Path:
        return folder / f"{self._stem}.{rank}.predictions"

    # ------------------------------------------------------------------ going on

    def begin(self, identity: Mapping[str, Any], resume: bool) -> None:
        """Say what will be appended, and take up what an earlier run with that identity left.

        Args:
            identity: JSON values that say which model and dataset this is.
            resume: keep the earlier predictions; otherwise their file is overwritten.
        """
        self._identity = identity
        if not resume or self._folder is None:
            return
        keys: set[Hashable] = set()
        for path in sorted(self._folder.glob(self._path(Path(), "*").name)):
            own = path == self._path(self._folder, self._rank)
            file = self._file_of_this_run(path, writable=own)
            if file is None:
                continue
            entries = [_Entry(None, file, offset) for offset in file.offsets[1:]]
            keys.update(self._key_of(entry.load()) for entry in entries)
            if own:
                self._file = file
                self._entries = entries
        self.restored = frozenset(keys)
        logger.info("Going on after %d predictions that an earlier run has left.", len(keys))

    def _file_of_this_run(self, path: Path, writable: bool) -> SpoolFile | None:
        file = SpoolFile.open(path, writable)
        if file is None or not file.offsets:
            return None
        if records.decode(file.read(file.offsets[0])) != dict(self._identity):
            logger.warning("%s is of another model or dataset; it is not used.", path)
            return None
        return file

    # ------------------------------------------------------------------ several processes

    def description(self) -> dict[str, Any]:
        """What another process needs to read this spool; small, unless items are in memory."""
        on_disk = [entry for entry in self._entries if entry.file is not None]
        return {
            "path": None if self._file is None else str(self._file.path.resolve()),
            "offsets": [entry.offset for entry in on_disk],
            "checksum": on_disk[-1].checksum() if on_disk else 0,
            "items": [entry.item for entry in self._entries if entry.file is None],
        }

    def view(self) -> PredictionSpool:
        """The same predictions in a list of its own."""
        other = PredictionSpool.__new__(PredictionSpool)
        other.__dict__.update(self.__dict__, _entries=list(self._entries))
        return other

    def adopt(self, description: Mapping[str, Any]) -> bool:
        """Append what another process has spooled. False if its file is not readable here."""
        offsets = description["offsets"]
        entries: list[_Entry] = []
        if offsets:
            file = SpoolFile.open(Path(description["path"]), writable=False)
            if file is None or not set(offsets) <= set(file.offsets):
                return False
            entries = [_Entry(None, file, offset) for offset in offsets]
            if entries[-1].checksum() != description["checksum"]:
                return False
        self._entries += [*entries, *(_Entry(item) for item in description["items"])]
        return True

    def adopt_left_behind(self, ranks: int) -> list[Any]:
        """Append what processes of an earlier run with more ranks have left, and return it."""
        before = len(self)
        if self._folder is None or not self.restored:
            return []
        for path in sorted(self._folder.glob(self._path(Path(), "*").name)):
            rank = path.name.split(".")[-2]
            if rank.isdigit() and int(rank) >= ranks:
                file = self._file_of_this_run(path, writable=False)
                if file is not None:
                    self._entries += [_Entry(None, file, offset) for offset in file.offsets[1:]]
        return self[before:]

    def without_repetitions(self) -> None:
        """Keep the first prediction of each key; only a resumed run has more."""
        if self.restored:
            first: dict[Hashable, _Entry] = {}
            for entry in self._entries:
                first.setdefault(self._key_of(entry.load()), entry)
            self._entries = list(first.values())

    def remove_files(self) -> None:
        """Remove the files: the evaluation is complete. Their contents can still be read here."""
        files = [self._file, *(entry.file for entry in self._entries)]
        for file in {id(file): file for file in files if file is not None}.values():
            file.unlink()


def gather_predictions(predictions: Any, distributed: bool) -> Sequence[Any] | None:
    """Predictions of all processes on the main one, None on the others.

    The main process reads the files of the others where it can, and is sent what it cannot see.

    Args:
        predictions: a spool, or a list that a subclass keeps instead.
        distributed: False leaves every process with its own predictions.
    """
    if not isinstance(predictions, PredictionSpool):
        return _gather_lists(predictions) if distributed else predictions
    merged = predictions.view()
    if distributed:
        comm.synchronize()
        descriptions = comm.gather(predictions.description(), dst=0)
        out_of_sight = [
            rank for rank, each in enumerate(descriptions) if rank and not merged.adopt(each)
        ]
        out_of_sight = comm.all_gather(out_of_sight)[0]
        if out_of_sight:
            mine = list(predictions) if comm.get_rank() in out_of_sight else []
            for items in comm.gather(mine, dst=0):
                merged.extend(items)
        if not comm.is_main_process():
            return None
    merged.adopt_left_behind(comm.get_world_size())
    merged.without_repetitions()
    return merged


def _gather_lists(predictions: Sequence[Any]) -> Sequence[Any] | None:
    comm.synchronize()
    gathered = comm.gather(predictions, dst=0)
    return list(itertools.chain(*gathered)) if comm.is_main_process() else None
