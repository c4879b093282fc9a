"""Files that evaluators write: whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_open

__all__ = ["open_output", "write_json_list"]


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
