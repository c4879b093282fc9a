"""Files that evaluators write: whole or not at all."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_open

__all__ = ["open_output", "save_list", "write_json_list"]


@contextmanager
def open_output(path: str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing; on a local disk it appears when it is complete."""
    if "://" in path:  # object stores show a file only once it is uploaded
        with PathManager.open(path, mode) as stream:
            yield stream
    else:
        with atomic_open(os.path.abspath(path), mode) as stream:
            yield stream


def write_json_list(path: str, items: Iterable[Any]) -> None:
    """Write a JSON list item by item, so that no second copy of it is built in memory."""
    encode = json.JSONEncoder().encode
    with open_output(path) as stream:
        stream.write("[")
        for number, item in enumerate(items):
            stream.write((", " if number else "") + encode(item))
        stream.write("]")


def save_list(items: Iterable[Any], stream: IO[bytes]) -> None:
    """Write what `torch.save(list(items))` writes of items without tensors, chunk by chunk.

    A pickle of a list is a mark, the items and the order to append them, as often as one likes.
    Each item is pickled on its own, so the file is larger and the list never in memory.
    """
    items = iter(items)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as data:
            data.write(pickle.PROTO + bytes([_PROTOCOL]) + pickle.EMPTY_LIST)
            while chunk := list(itertools.islice(items, 100)):
                data.write(pickle.MARK + b"".join(map(_opcodes, chunk)) + pickle.APPENDS)
            data.write(pickle.STOP)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")


_PROTOCOL = 2


def _opcodes(item: Any) -> bytes:
    """The part of a pickle that puts `item` on the stack."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, _PROTOCOL)
    pickler.fast = True
    pickler.dump(item)
    return buffer.getvalue()[2:-1]  # without the protocol and the final stop
