"""Rewriting checkpoints in another format."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectron2.checkpoint._files import load_torch_file, read_checkpoint, save_safetensors
from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_write_bytes

__all__ = ["Conversion", "convert_checkpoint"]

FORMATS = (".safetensors", ".pth", ".pkl")


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        tensors: their number.
        megabytes: size of the new file.
        left_out: what the old file had beside weights and plain values, such as "optimizer".
    """

    tensors: int
    megabytes: float
    left_out: list[str]


def convert_checkpoint(
    source: str | os.PathLike[str], target: str | os.PathLike[str]
) -> Conversion:
    """Write the weights of one checkpoint file as another file.

    Names, values and types of the tensors stay, and so does what tells a reader how to match the
    names (Caffe2's are still translated when the new file is loaded). Plain values such as
    "iteration" are kept. The state of an optimizer is not.

    Args:
        source: path or address of any checkpoint that `DetectionCheckpointer` reads.
        target: path that ends in ``.safetensors``, ``.pth`` or ``.pkl`` (NumPy arrays, as in the
            model zoo).

    Raises:
        FileNotFoundError: there is no `source`.
        CorruptCheckpointError, UnsafeCheckpointError: it cannot be read.
        ValueError: `target` has another ending, is `source`, or cannot hold a tensor's type.
    """
    target = Path(target)
    if target.suffix not in FORMATS:
        raise ValueError(f"{str(target)!r} must end in {', '.join(FORMATS)}.")
    local = PathManager.get_local_path(os.fspath(source))
    if not os.path.isfile(local):
        raise FileNotFoundError(f"There is no checkpoint {os.fspath(source)!r}.")
    if target.exists() and os.path.samefile(local, target):
        raise ValueError(f"{str(target)!r} is the checkpoint itself; name another file.")
    content = read_checkpoint(local, load_torch_file)
    model = _tensors(content.pop("model"), os.fspath(source))
    plain = {key: value for key, value in content.items() if _is_plain(value)}
    atomic_write_bytes(target, lambda file: _write(file, target.suffix, model, plain))
    return Conversion(
        tensors=len(model),
        megabytes=target.stat().st_size / 2**20,
        left_out=sorted(set(content) - set(plain)),
    )


def _tensors(model: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    tensors = {}
    for name, value in model.items():
        if isinstance(value, (np.ndarray, np.generic)):
            value = torch.from_numpy(np.array(value, order="C"))
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name!r} in checkpoint {source!r} is a {type(value).__name__}, no tensor."
            )
        tensors[name] = value.detach()
    return tensors


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _write(file: Any, ending: str, model: dict[str, Tensor], plain: dict[str, Any]) -> None:
    if ending == ".safetensors":
        file.write(save_safetensors(model, plain))
    elif ending == ".pth":
        # Tensors may share storage with each other, or be a small part of a large one.
        torch.save({"model": {name: t.clone() for name, t in model.items()}, **plain}, file)
    else:
        arrays = {name: _array(name, tensor) for name, tensor in model.items()}
        # Readers take a .pkl without an author for one of Caffe2.
        pickle.dump({"model": arrays, "__author__": "detectron2", **plain}, file, protocol=4)


def _array(name: str, tensor: Tensor) -> np.ndarray[Any, Any]:
    try:
        return tensor.contiguous().numpy()
    except TypeError as error:
        raise ValueError(
            f"{name!r} is {tensor.dtype}, which NumPy and so a .pkl cannot hold; write "
            ".safetensors or .pth."
        ) from error
