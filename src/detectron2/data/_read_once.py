"""Annotation files that a program reads several times while it starts: parsed once.

Recognising a folder, fitting a config to it and loading its records each want the same files.
What is kept takes as much memory as a loaded dataset, so it is kept only while the program starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ReadAhead", "files_read_once", "forget_files", "parsed"]

# Path -> (size and time of change, content); None where nothing is kept.
_kept: dict[str, tuple[tuple[int, int], Any]] | None = None
_ahead: list[ReadAhead] = []


@contextmanager
def files_read_once() -> Iterator[None]:
    """While active, `parsed` remembers; an outer one decides when all is forgotten."""
    global _kept
    if _kept is not None:
        yield
        return
    _kept = {}
    try:
        yield
    finally:
        forget_files()


def forget_files() -> None:
    """Let go of what is kept: the program has started."""
    global _kept
    _kept = None
    for reader in _ahead:
        reader.forget()
    _ahead.clear()


def parsed(path: str | os.PathLike[str], parse: Callable[[], Any]) -> Any:
    """`parse()`, or what it returned before for this file. Callers must not change it."""
    stamp = None if _kept is None else _stamp(path)
    if _kept is None or stamp is None:
        return parse()
    key = os.path.realpath(path)
    if key not in _kept or _kept[key][0] != stamp:
        _kept[key] = stamp, parse()
    return _kept[key][1]


def _stamp(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


class ReadAhead:
    """A function that reads records, and may have read them already: for whoever comes first."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self.read = read
        self._records: Any = None

    def look(self) -> Any:
        """The records; the next call gets the same ones, while files are kept."""
        records = self()
        if _kept is not None:
            self._records = records
            _ahead.append(self)
        return records

    def __call__(self) -> Any:
        records, self._records = self._records, None
        return self.read() if records is None else records

    def forget(self) -> None:
        self._records = None

    def __getstate__(self) -> dict[str, Any]:
        return {"read": self.read, "_records": None}
