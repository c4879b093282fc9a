"""Reading pickles of arrays without running what is in them.

A pickle is a program: it names functions and calls them. Here only a fixed list of harmless names
can be reached, enough for dictionaries of numbers, numpy arrays and torch tensors.
"""

from __future__ import annotations

import codecs
import collections
import copyreg
import datetime
import io
import pickle
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import torch
from fvcore.common.history_buffer import HistoryBuffer

__all__ = ["UnsafeCheckpointError", "allow_in_checkpoints", "load_pickle", "torch_safe_classes"]

_extra_classes: list[type] = []


class UnsafeCheckpointError(pickle.UnpicklingError):
    """A checkpoint asks for a class or function that loading weights does not need."""


def allow_in_checkpoints(*classes: type) -> None:
    """Let checkpoints hold instances of further classes, for the rest of the process.

    Loading such a checkpoint calls the methods of these classes, so they must be harmless with any
    arguments.
    """
    _extra_classes.extend(cls for cls in classes if cls not in _extra_classes)


def load_pickle(file: IO[bytes], filename: str) -> Any:
    """Object in a pickle of plain data.

    Text that Python 2 wrote is read as latin-1.

    Args:
        filename: for messages.

    Raises:
        UnsafeCheckpointError: the pickle asks for anything that is not on the list.
        pickle.UnpicklingError, EOFError: the file is no pickle or is cut off.
    """
    return _Unpickler(file, filename).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], filename: str) -> None:
        super().__init__(file, encoding="latin1")
        self._filename = filename

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if found is not None:
            return found
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        for cls in (HistoryBuffer, *_extra_classes):
            if (cls.__module__, cls.__qualname__) == (module, name):
                return cls
        raise UnsafeCheckpointError(refusal(self._filename, f"{module}.{name}"))

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeCheckpointError(refusal(self._filename, f"an external object {pid!r}"))


def refusal(filename: str, what: str) -> str:
    """The sentence for a checkpoint that is not plain data."""
    return (
        f"Checkpoint {filename!r} holds {what}, which could run code and is not needed for "
        "weights; nothing was loaded. If you trust the file, allow that class with "
        "detectron2.checkpoint.allow_in_checkpoints(), or convert the file to safetensors."
    )


def _load_tensor_bytes(content: bytes) -> Any:
    """torch.storage._load_from_bytes without the unpickling of arbitrary objects."""
    return torch.load(io.BytesIO(content), weights_only=True)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """_codecs.encode, which pickle uses to write bytes in its oldest formats."""
    if codecs.lookup(encoding).name not in ("iso8859-1", "utf-8", "ascii"):
        raise UnsafeCheckpointError(f"A checkpoint asks for the text encoding {encoding!r}.")
    return text.encode(encoding)


def _numpy_internals() -> dict[tuple[str, str], Any]:
    """What numpy's arrays and scalars pickle themselves with, under the names of all versions."""
    array_reduce = np.zeros(1).__reduce__()[0]  # _reconstruct
    scalar_reduce = np.float32(1).__reduce__()[0]  # scalar
    buffer_reduce = np.zeros(2).__reduce_ex__(5)[0]  # _frombuffer
    return {
        ("numpy.core.multiarray", "_reconstruct"): array_reduce,
        ("numpy.core.multiarray", "scalar"): scalar_reduce,
        ("numpy.core.numeric", "_frombuffer"): buffer_reduce,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }


_CONTAINERS = (bytearray, bytes, dict, frozenset, list, object, set, str, tuple)
_BUILTINS = (*_CONTAINERS, bool, complex, float, int)

_ALLOWED: dict[tuple[str, str], Any] = {
    **_numpy_internals(),
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("_codecs", "encode"): _encode,
    # The oldest formats make every object with it; the class it is given was allowed before.
    ("copy_reg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
    ("copyreg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
    ("torch.storage", "_load_from_bytes"): _load_tensor_bytes,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    **{(module, cls.__name__): cls for module in ("builtins", "__builtin__") for cls in _BUILTINS},
}


def _path_as_text(*parts: str) -> str:
    return "/".join(parts)


def _without_default(_: Any = None) -> collections.OrderedDict[Any, Any]:
    """For torch's reader, which fills no defaultdict."""
    return collections.OrderedDict()


# What training scripts keep beside the weights. A config tree comes back as the nested dicts it
# is, options of a command line as a SimpleNamespace and a path as text: a file that names a class
# written in Python could put attributes on the class itself.
_BESIDE_WEIGHTS: dict[str, Callable[..., Any]] = {
    "detectron2.config.config.CfgNode": collections.OrderedDict,
    "fvcore.common.config.CfgNode": collections.OrderedDict,
    "yacs.config.CfgNode": collections.OrderedDict,
    "argparse.Namespace": types.SimpleNamespace,
    "pathlib.PosixPath": _path_as_text,
    "pathlib.WindowsPath": _path_as_text,
    "pathlib._local.PosixPath": _path_as_text,
    "pathlib._local.WindowsPath": _path_as_text,
    **{
        f"datetime.{cls.__name__}": cls
        for cls in (datetime.date, datetime.datetime, datetime.time, datetime.timedelta)
    },
}
_ALLOWED |= {tuple(name.rsplit(".", 1)): found for name, found in _BESIDE_WEIGHTS.items()}  # type: ignore[misc]


@contextmanager
def torch_safe_classes() -> Iterator[None]:
    """Inside, ``torch.load(weights_only=True)`` also accepts numpy values and training states."""
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDSUO"}
    # Files written with numpy 1 and 2 name the same functions by different modules.
    renamed: list[tuple[Callable[..., Any], str]] = [
        (found, f"{module}.{name}".replace("numpy.core", package))
        for (module, name), found in _numpy_internals().items()
        for package in ("numpy.core", "numpy._core")
    ]
    renamed += [(found, name) for name, found in _BESIDE_WEIGHTS.items()]
    renamed.append((_without_default, "collections.defaultdict"))
    classes = [*renamed, *_BUILTINS, *dtypes, HistoryBuffer, *_extra_classes]
    with torch.serialization.safe_globals(classes):
        yield
