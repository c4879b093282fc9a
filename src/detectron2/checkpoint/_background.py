"""Writing a file while training goes on."""

from __future__ import annotations

import os
import re
import threading
import zipfile
from collections.abc import Callable
from typing import IO, Any

import torch

from detectron2.checkpoint._files import CorruptCheckpointError

__all__ = ["BackgroundWriter", "check_sums", "remove_unfinished", "snapshot", "write_through"]


class BackgroundWriter:
    """Runs one task at a time in a thread; an error is raised by the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, task: Callable[[], None]) -> None:
        """Run `task` when the one before it has ended."""
        self.wait()
        # No daemon: the end of the program waits for the file.
        self._thread = threading.Thread(target=self._run, args=(task,), name="checkpoint-writer")
        self._thread.start()

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Wait for the task to end, and raise its error if it had one."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error


def snapshot(tree: Any, copies: dict[Any, torch.Tensor] | None = None) -> Any:
    """Copy of nested dictionaries, lists and tuples whose tensors are copied to the CPU.

    Tensors that share their memory, such as tied weights, share that of one copy.
    """
    copies = {} if copies is None else copies
    if isinstance(tree, torch.Tensor):
        key = (tree.device, tree.data_ptr(), tree.dtype, tuple(tree.shape), tree.stride())
        if tree.numel() == 0 or key not in copies:
            copies[key] = tree.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(tree, dict):
        content = {key: snapshot(value, copies) for key, value in tree.items()}
        if type(tree) is dict:
            return content
        result = type(tree)(content)
        vars(result).update(vars(tree))  # modules keep the versions of their layout here
        return result
    if type(tree) in (list, tuple):
        return type(tree)(snapshot(value, copies) for value in tree)
    return tree


def check_sums(filename: str) -> None:
    """Compare every tensor of a file of ``torch.save`` with the sum (CRC-32) stored beside it.

    PyTorch does not look at these sums when it loads.

    Raises:
        CorruptCheckpointError: one differs, or the file is cut off.
    """
    if not zipfile.is_zipfile(filename):
        return  # cut off, or of another kind; who reads it finds out
    try:
        with zipfile.ZipFile(filename) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise CorruptCheckpointError(f"Checkpoint {filename!r} is damaged ({error}).") from error
    if damaged is not None:
        raise CorruptCheckpointError(
            f"Checkpoint {filename!r} is damaged: the sum of its part {damaged!r} is wrong."
        )


def remove_unfinished(folder: str) -> None:
    """Delete what processes that were killed had written of their files; each may be gigabytes."""
    if not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        match = re.fullmatch(r"\..+\.(\d+)\.[0-9a-f]{8}\.part", name)
        if match and not _is_alive(int(match.group(1))):
            os.remove(os.path.join(folder, name))


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


def write_through(file: IO[bytes], write: Callable[[Any], object]) -> None:
    """`write(file)`, raising the error of the file itself.

    PyTorch turns a full disk into a `RuntimeError` about a position in an archive.
    """
    stream = _RememberError(file)
    try:
        write(stream)
    except RuntimeError:
        if stream.error is not None:
            raise stream.error from None
        raise


class _RememberError:
    """The part of a binary file that ``torch.save`` needs; keeps the error of a write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
