"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["atomic_open", "atomic_write_bytes", "atomic_write_text"]


@contextmanager
def atomic_open(path: str | Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its place when the block ends without error.

    A process that is killed in between leaves the old file as it was.

    Args:
        path: file to write; its folder is created.
        mode: "wb" or "w".
        **options: passed to `open`.

    Raises:
        OSError: the folder cannot be created or written to; nothing was changed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, mode.replace("w", "x"), **options) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def atomic_write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 `text` to `path`, all of it or nothing. Returns the path."""
    with atomic_open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
    return Path(path)


def atomic_write_bytes(path: str | Path, write: bytes | Callable[[IO[bytes]], object]) -> Path:
    """Write bytes, or what `write(stream)` produces, to `path`, all or nothing."""
    with atomic_open(path, "wb") as stream:
        if callable(write):
            write(stream)
        else:
            stream.write(write)
    return Path(path)


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable. Windows cannot open folders and does not need it.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
