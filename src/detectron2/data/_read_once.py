"""Annotation files that a program reads several times while it starts: parsed once.

Recognising a folder, fitting a config to it and loading its records each want the same files.
What is kept takes as much memory as a loaded dataset, so it is kept only while the program starts:
until training or inference begins.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ReadAhead", "files_read_once", "forget_files", "parsed"]

# Path -> (size and time of change, content); None where nothing is kept.
_kept: dict[str, tuple[tuple[int, int], Any]] | None = None
_ahead: list[ReadAhead] = []
_several_ask = False


@contextmanager
def files_read_once(several_ask: bool = False) -> Iterator[None]:
    """While active, `parsed` remembers; an outer one decides when all is forgotten.

    Args:
        several_ask: the records of a dataset are wanted more than once, as by an evaluator and a
            loader: a `ReadAhead` then makes copies of what it has read.
    """
    global _kept, _several_ask
    if _kept is not None:
        yield
        return
    _kept, _several_ask = {}, several_ask
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
        self._again: bytes | None = None

    def look(self) -> Any:
        """The records; the next call gets the same ones, while files are kept.

        Where several ask, the calls after that get equal ones.
        """
        records = self()
        if _kept is not None:
            self._records = records
            _ahead.append(self)
        return records

    def __call__(self) -> Any:
        records, self._records = self._records, None
        if records is None:
            return self.read_now() if self._again is None else pickle.loads(self._again)
        if _several_ask and self._again is None:
            self._again = pickle.dumps(records)
        return records

    def read_now(self) -> Any:
        return self.read()

    def forget(self) -> None:
        self._records = self._again = None

    def __getstate__(self) -> dict[str, Any]:
        return {"read": self.read, "_records": None, "_again": None}
