"""A file of records with checksums, appended to by one process and read by others."""

from __future__ import annotations

import logging
import struct
import weakref
import zlib
from io import FileIO
from pathlib import Path

__all__ = ["SpoolFile"]

logger = logging.getLogger(__name__)

_MAGIC = b"detectron2 predictions 1\n"
_FRAME = struct.Struct("<QI")  # length and CRC-32 of a record


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
