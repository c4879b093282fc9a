"""Files that evaluators write: whole or not at all."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_open

__all__ = ["open_output", "save_dict_of_lists", "save_list", "write_json_list"]


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


def save_dict_of_lists(
    lists: Mapping[str, Iterable[Any]], scalars: Mapping[str, Any], stream: IO[bytes]
) -> None:
    """Write what `pickle.dump` writes of a dictionary of lists and of other values.

    The lists are read and written one after the other, item by item, and never in memory.
    """
    stream.write(pickle.PROTO + bytes([_PLAIN_PROTOCOL]) + pickle.EMPTY_DICT)
    for name, items in lists.items():
        stream.write(_opcodes(name, _PLAIN_PROTOCOL) + pickle.EMPTY_LIST)
        for item in items:
            stream.write(_opcodes(item, _PLAIN_PROTOCOL) + pickle.APPEND)
        stream.write(pickle.SETITEM)
    for name, value in scalars.items():
        stream.write(_opcodes(name, _PLAIN_PROTOCOL) + _opcodes(value, _PLAIN_PROTOCOL))
        stream.write(pickle.SETITEM)
    stream.write(pickle.STOP)


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


_PROTOCOL = 2  # of torch.save
_PLAIN_PROTOCOL = 3  # the last without frames, which span items


def _opcodes(item: Any, protocol: int = _PROTOCOL) -> bytes:
    """The part of a pickle that puts `item` on the stack."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol)
    pickler.fast = True
    pickler.dump(item)
    return buffer.getvalue()[2:-1]  # without the protocol and the final stop
