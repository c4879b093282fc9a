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
import tempfile
import weakref
import zlib
from collections.abc import Hashable, Iterator, Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation import records
from detectron2.evaluation.coco_results import CocoResults
from detectron2.evaluation.spool_file import SpoolFile
from detectron2.utils import comm

__all__ = ["PredictionSpool", "gather_predictions", "spool_folder"]

logger = logging.getLogger(__name__)

_CACHE_BYTES = 64 << 20  # of records whose items are kept as well: small evaluations read nothing
_BLOCK_BYTES = 1 << 20


_IN_USE: weakref.WeakValueDictionary[str, PredictionSpool] = weakref.WeakValueDictionary()


def spool_folder(output_dir: str | None) -> str | None:
    """Where the spool of an evaluation goes whose results go to `output_dir`."""
    return None if output_dir is None else os.path.join(output_dir, ".unfinished")


class _Entry:
    """Where an item is: at `offset` of `file`, in memory, or (small evaluations) both."""

    __slots__ = ("file", "item", "offset", "span")

    def __init__(self, item: Any = None, file: SpoolFile | None = None, offset: int = 0) -> None:
        self.item, self.file, self.offset = item, file, offset
        self.span: slice | None = None  # of the item's detections among those of a block

    def load(self) -> Any:
        if self.item is None and self.file is not None:
            return records.decode(self.file.read(self.offset))
        if self.span is None:
            return self.item
        return {**self.item, "instances": self.item["instances"].sliced(self.span)}

    def peek(self) -> tuple[Any, int | None]:
        """As `PredictionSpool.peeks` has it."""
        if self.item is None or self.span is None:
            return self.load(), None
        return self.item, self.span.stop - self.span.start

    def checksum(self) -> int:
        """Of the record, which tells its file from another one of the same name."""
        return 0 if self.file is None else zlib.crc32(self.file.read(self.offset))


class _Cache:
    """Keeps the items of the first records in memory as well, up to `_CACHE_BYTES` of records.

    The detections of many images go into one block: thousands of small arrays, made between large
    ones that come and go, left 100 kB of heap unusable for each image.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._loose: list[_Entry] = []
        self._loose_bytes = 0

    def has_room_for(self, size: int) -> bool:
        return self._bytes + size <= _CACHE_BYTES

    def add(self, entry: _Entry, size: int) -> None:
        """Take in an entry with its item."""
        self._bytes += size
        instances = entry.item.get("instances") if isinstance(entry.item, dict) else None
        if isinstance(instances, CocoResults):
            self._loose.append(entry)
            self._loose_bytes += size
            if self._loose_bytes >= _BLOCK_BYTES:
                self._join()

    def _join(self) -> None:
        entries, self._loose, self._loose_bytes = self._loose, [], 0
        parts = [entry.item["instances"] for entry in entries]
        if len({(part.mask_counts is None, part.keypoints is None) for part in parts}) > 1:
            return
        block = CocoResults.concatenate(parts)
        end = 0
        for entry, part in zip(entries, parts):
            if len(part):
                entry.item = {**entry.item, "instances": block}
                entry.span = slice(end, end + len(part))
                end += len(part)


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
        self._name = name
        self._stem = re.sub(r"[^\w-]+", "_", name)
        self._rank = rank
        self._key = key
        self._folder = None if folder is None or "://" in folder else Path(folder)
        self._number: int | None = None  # among spools of this name that are in use
        self._identity: Mapping[str, Any] = {"name": name}
        self._file: SpoolFile | None = None
        self._entries: list[_Entry] = []
        self._cache = _Cache()
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

    def peeks(self) -> Iterator[tuple[Any, int | None]]:
        """Items for who wants to know of their detections only what and how many they are.

        With each goes the number of its detections; None if they are those in the item, which
        otherwise has those of other images as well.
        """
        return (entry.peek() for entry in list(self._entries))

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
        if not self._cache.has_room_for(len(payload)):
            return _Entry(None, file, offset)
        entry = _Entry(item, file, offset)
        self._cache.add(entry, len(payload))
        return entry

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
        """File of a rank. Two evaluators of one kind and dataset get files of their own."""
        if self._number is None:
            self._number = next(
                number for number in itertools.count()
                if str(self._numbered_path(folder, self._rank, number)) not in _IN_USE
            )  # fmt: skip
            _IN_USE[str(self._numbered_path(folder, self._rank, self._number))] = self
        return self._numbered_path(folder, rank, self._number)

    def _numbered_path(self, folder: Path, rank: int | str, number: int) -> Path:
        suffix = f"-{number + 1}" if number else ""
        return folder / f"{self._stem}{suffix}.{rank}.predictions"

    # ------------------------------------------------------------------ going on

    def begin(self, identity: Mapping[str, Any], resume: bool) -> None:
        """Say what will be appended, and take up what an earlier run with that identity left.

        Args:
            identity: JSON values that say which model and dataset this is.
            resume: keep the earlier predictions; otherwise their file is overwritten.
        """
        self._identity = {**identity, "name": self._name}
        if not resume or self._folder is None:
            return
        keys: set[Hashable] = set()
        for path in sorted(self._folder.glob(self._path(self._folder, "*").name)):
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
        for path in sorted(self._folder.glob(self._path(self._folder, "*").name)):
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
