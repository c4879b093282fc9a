"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = [
    "atomic_folder",
    "atomic_open",
    "atomic_write_bytes",
    "atomic_write_text",
    "require_writable_folder",
]

# renameat2(2) of Linux and renameatx_np(2) of macOS: arguments of "exchange the two names".
_EXCHANGE = {"linux": ("renameat2", -100, 2), "darwin": ("renameatx_np", -2, 2)}


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


def require_writable_folder(folder: str | Path, way_out: str = "name another one") -> None:
    """Create `folder` and write to it, so that a long job fails before it starts, not at its end.

    Args:
        folder: a folder of this machine's disks.
        way_out: end of the sentence of the error: what to do instead.

    Raises:
        OSError: it cannot be created or written to.
    """
    probe = Path(folder) / f".writable.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise type(error)(
            f"The output folder {str(folder)!r} cannot be written to "
            f"({error.strerror or error}); {way_out}."
        ) from error


@contextmanager
def atomic_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A new folder beside `path` that takes its place when the block ends without error.

    A process that is killed in between leaves `path` as it was, and a hidden folder
    ``.NAME.*.part`` beside it. Where the system cannot exchange two folders in one step (other than
    Linux and macOS), an old folder is moved to ``.NAME.*.old`` first.

    Args:
        path: folder to make.
        overwrite: replace a folder that is not empty.

    Raises:
        FileExistsError: it exists and is not empty, or is no folder.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not overwrite)):
        raise FileExistsError(
            f"{str(path)!r} exists already; name another folder, or allow to overwrite it "
            "(--overwrite)."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    temporary.mkdir()
    try:
        yield temporary
        for written in temporary.rglob("*"):
            _sync(written)
        if path.exists():
            _exchange(temporary, path)
        else:
            os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        # What is left under this name is unfinished, or what was there before.
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders, in one step if the system can."""
    name, here, flag = _EXCHANGE.get(sys.platform, ("", 0, 0))
    if name:
        libc = ctypes.CDLL(None, use_errno=True)
        function = getattr(libc, name, None)
        arguments = (here, os.fsencode(new), here, os.fsencode(old), flag)
        if function is not None and function(*arguments) == 0:
            return
    aside = new.with_suffix(".old")
    os.replace(old, aside)
    os.replace(new, old)
    os.replace(aside, new)


def _sync(path: Path) -> None:
    if path.is_dir():
        _sync_folder(path)
    elif not path.is_symlink():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable. Windows cannot open folders and does not need it.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
