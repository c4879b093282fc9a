"""Log set-up, messages that should not repeat, and small tables."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from types import FrameType
from typing import IO, Any

import torch
from tabulate import tabulate
from termcolor import colored

__all__ = ["log_every_n", "log_every_n_seconds", "log_first_n", "setup_logger"]

_PLAIN_FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
_TIME_FORMAT = "%m/%d %H:%M:%S"
_COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")
_REMOTE_BUFFER_BYTES = 1 << 20


class _PlainFormatter(logging.Formatter):
    """Full names, and no colours: a message may carry some for the terminal."""

    def __init__(self) -> None:
        super().__init__(_PLAIN_FORMAT, datefmt=_TIME_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return _COLOUR_CODE.sub("", super().format(record))


class _ColorfulFormatter(logging.Formatter):
    """Green time and (abbreviated) logger name, red level for warnings and errors."""

    def __init__(self, root_name: str, abbreviation: str) -> None:
        head = colored("[%(asctime)s %(name)s]: ", "green")
        super().__init__(head + "%(message)s", datefmt=_TIME_FORMAT)
        self._root_name = root_name
        self._abbreviation = abbreviation

    def formatMessage(self, record: logging.LogRecord) -> str:
        full_name = record.name
        record.name = self._abbreviate(full_name)
        try:
            text = super().formatMessage(record)
        finally:
            record.name = full_name  # other handlers see the same record
        if record.levelno < logging.WARNING:
            return text
        attributes = ["underline"] if record.levelno >= logging.ERROR else []
        return f"{colored(record.levelname, 'red', attrs=attributes)} {text}"

    def _abbreviate(self, name: str) -> str:
        if name == self._root_name or name.startswith(self._root_name + "."):
            parts = [self._abbreviation, name[len(self._root_name) + 1 :]]
            return ".".join(part for part in parts if part)
        return name


class _StdoutHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever ``sys.stdout`` is at the time of the message.

    Notebooks and test runners replace it, and the stream that was there first may be closed.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stdout


class _FileHandler(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self, path: str) -> None:
        super().__init__(_open_log(path))
        self.path = path


@functools.cache
def _open_log(path: str) -> IO[str]:
    """Stream that appends to `path`; loggers that name the same file share it."""
    from detectron2.utils.file_io import PathManager

    if folder := os.path.dirname(path):
        PathManager.mkdirs(folder)
    # Object stores rewrite the whole object at each flush, so write to them rarely.
    remote_buffer = int(os.environ.get("D2_LOG_BUFFER_SIZE", _REMOTE_BUFFER_BYTES))
    stream = PathManager.open(path, "a", buffering=remote_buffer if "://" in path else -1)
    atexit.register(stream.close)
    return stream


def _log_path(output: str, rank: int) -> str:
    path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    return f"{path}.rank{rank}" if rank > 0 else path


def setup_logger(
    output: str | os.PathLike[str] | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Send a logger and its children to the terminal and to a file.

    A repeated call adds no second handler: the terminal is configured anew, a file that is
    already written to is kept.

    Args:
        output: a ``.txt`` or ``.log`` file, or a folder that gets a ``log.txt``; None writes
            no file. Processes above rank 0 append ``.rank<N>`` to the name.
        distributed_rank: only rank 0 writes to the terminal.
        name: root of the loggers to configure.
        abbrev_name: what the terminal shows for `name`; ``detectron2`` becomes ``d2``.
        enable_propagation: also hand messages to the parents of this logger.
        configure_stdout: write to the terminal at all.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    plain = _PlainFormatter()
    if configure_stdout and distributed_rank == 0:
        formatter = _ColorfulFormatter(name, abbrev_name) if color else plain
        _terminal_handler(logger).setFormatter(formatter)
    if output is not None:
        _add_file(logger, _log_path(os.fspath(output), distributed_rank), plain)
    return logger


def _terminal_handler(logger: logging.Logger) -> logging.Handler:
    for handler in logger.handlers:
        if isinstance(handler, _StdoutHandler):
            return handler
    handler = _StdoutHandler()
    handler.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    return handler


def _add_file(logger: logging.Logger, path: str, formatter: logging.Formatter) -> None:
    known = {handler.path for handler in logger.handlers if isinstance(handler, _FileHandler)}
    if path in known:
        return
    handler = _FileHandler(path)
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


def _caller() -> tuple[str, tuple[str, int]]:
    """(module name, (file, line)) of the nearest frame outside this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None:
        return "detectron2", ("", 0)
    module = frame.f_globals.get("__name__", "detectron2")
    if module == "__main__":
        module = "detectron2"  # a script has no logger that anybody configured
    return module, (frame.f_code.co_filename, frame.f_lineno)


_times_seen: Counter[tuple[Any, ...]] = Counter()
_last_logged: dict[tuple[Any, ...], float] = {}


def log_first_n(
    lvl: int,
    msg: str,
    n: int = 1,
    *,
    name: str | None = None,
    key: str | tuple[str, ...] = "caller",
) -> None:
    """Log only the first `n` times.

    Args:
        lvl: level, such as ``logging.WARNING``.
        name: logger to use; None means the logger of the calling module.
        key: what counts as the same message: ``"caller"`` (the line of code), ``"message"``
            (the text) or both as a tuple.
    """
    module, place = _caller()
    parts = {"caller": place, "message": msg}
    names = (key,) if isinstance(key, str) else tuple(key)
    unknown = [part for part in names if part not in parts]
    if unknown or not names:
        raise ValueError(f"key is {key!r}; use 'caller', 'message' or both in a tuple.")
    seen = tuple((part, parts[part]) for part in names)
    _times_seen[seen] += 1
    if _times_seen[seen] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first, the (n+1)-th, the (2n+1)-th ... call from the same line of code."""
    module, place = _caller()
    seen = ("every", place)
    _times_seen[seen] += 1
    if n == 1 or _times_seen[seen] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log at most once per `n` seconds from the same line of code."""
    module, place = _caller()
    now = time.monotonic()
    last = _last_logged.get(place)
    if last is None or now - last >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _last_logged[place] = now


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """Markdown table with the keys as its header and the values, three decimals, as its row."""
    return tabulate(
        [tuple(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )


def _log_api_usage(identifier: str) -> None:
    """Tell PyTorch's usage hook, once per process, that a part of this library is in use."""
    torch._C._log_api_usage_once(f"detectron2.{identifier}")
