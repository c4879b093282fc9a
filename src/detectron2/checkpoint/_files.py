"""Reading checkpoint files of every format into ``{"model": tensors by name, ...}``."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from detectron2.checkpoint._safe_pickle import (
    UnsafeCheckpointError,
    load_pickle,
    refusal,
    torch_safe_classes,
)

__all__ = ["CorruptCheckpointError", "load_torch_file", "read_checkpoint", "save_safetensors"]

Checkpoint = dict[str, Any]


class CorruptCheckpointError(RuntimeError):
    """A checkpoint file is empty, cut off or damaged."""


def read_checkpoint(filename: str, load_torch: Callable[[str], Any]) -> Checkpoint:
    """Content of a checkpoint file.

    Args:
        filename: local path of a ``.pkl`` (Caffe2 or model zoo), ``.pyth`` (pycls),
            ``.safetensors``, or a file that ``torch.save`` wrote (any other ending).
        load_torch: reads files of the last kind.

    Returns:
        "model" with the tensors by name; "matching_heuristics" and "__author__" if the names are
        not those of our models; and what else the file holds, such as "optimizer".

    Raises:
        CorruptCheckpointError: the file is empty, cut off or damaged.
        UnsafeCheckpointError: the file holds objects that could run code.
        ValueError: the file holds something else than weights.
    """
    if os.path.getsize(filename) == 0:
        raise CorruptCheckpointError(f"Checkpoint {filename!r} is empty.")
    try:
        return _read(filename, load_torch)
    except UnsafeCheckpointError:
        raise
    except (EOFError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error) as error:
        raise CorruptCheckpointError(_damage(filename, error)) from error
    except RuntimeError as error:
        if "PytorchStreamReader" in str(error) or "unexpected EOF" in str(error):
            raise CorruptCheckpointError(_damage(filename, error)) from error
        raise


def _damage(filename: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"Checkpoint {filename!r} cannot be read, it is probably cut off ({reason}). "
        "Download it again, or go on from an older checkpoint."
    )


def _read(filename: str, load_torch: Callable[[str], Any]) -> Checkpoint:
    if filename.endswith(".safetensors"):
        return _read_safetensors(filename)
    if filename.endswith(".pkl") and not zipfile.is_zipfile(filename):
        with open(filename, "rb") as file:
            return _from_pickle(load_pickle(file, filename), filename)
    loaded = load_torch(filename)
    if filename.endswith(".pyth") and "model_state" in loaded:
        return _from_pycls(loaded)
    return _from_torch(loaded, filename)


def _from_pickle(content: Any, filename: str) -> Checkpoint:
    """The model zoo writes {"model", "__author__"}; Caffe2 writes {"blobs"} or the blobs alone."""
    if not isinstance(content, dict):
        raise ValueError(f"Checkpoint {filename!r} holds a {type(content).__name__}, no weights.")
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)
    model = {
        name: blob
        for name, blob in blobs.items()
        if isinstance(blob, np.ndarray) and not name.endswith("_momentum")
    }
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def _from_pycls(content: Mapping[str, Any]) -> Checkpoint:
    model = {
        name: tensor
        for name, tensor in content["model_state"].items()
        if not name.endswith("num_batches_tracked")
    }
    return {"model": model, "__author__": "pycls", "matching_heuristics": True}


def _from_torch(content: Any, filename: str) -> Checkpoint:
    """A training state has "model"; other programs save "state_dict" or the weights alone."""
    if not isinstance(content, Mapping):
        raise ValueError(
            f"Checkpoint {filename!r} holds a {type(content).__name__}; save the state_dict of a "
            "model, not the model."
        )
    if "model" in content:
        return dict(content)
    if isinstance(content.get("state_dict"), Mapping):
        return {"model": content["state_dict"]}
    return {"model": content}


def load_torch_file(filename: str) -> Any:
    """What ``torch.save`` wrote, on the CPU; only plain data is accepted.

    Raises:
        UnsafeCheckpointError: the file holds objects that could run code.
        ValueError: it is neither an archive nor a pickle.
    """
    try:
        with torch_safe_classes():
            return torch.load(filename, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _begins_like_torch_file(filename):
            raise ValueError(f"{filename!r} is no checkpoint that torch.save wrote.") from error
        if "unsupported" not in str(error).lower():
            raise
        found = re.search(r"(?:GLOBAL|class|operand) ([\w.]+)", str(error))
        what = found.group(1) if found else "more than tensors and plain values"
        raise UnsafeCheckpointError(refusal(filename, what)) from error


def _begins_like_torch_file(filename: str) -> bool:
    """An archive, or a pickle of protocol 2 or newer (torch.save before 1.6)."""
    with open(filename, "rb") as file:
        return file.read(2) in (b"PK", *(bytes((0x80, protocol)) for protocol in range(2, 6)))


# --- safetensors ----------------------------------------------------------------------------


def _read_safetensors(filename: str) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(filename, framework="pt", device="cpu") as file:
            extra = {key: _value(text) for key, text in (file.metadata() or {}).items()}
            return {**extra, "model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
    except SafetensorError as error:
        raise CorruptCheckpointError(_damage(filename, error)) from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def save_safetensors(model: Mapping[str, torch.Tensor], extra: Mapping[str, Any]) -> bytes:
    """Content of a safetensors file with the tensors of a model.

    Args:
        extra: plain values beside them, stored as JSON.
    """
    from safetensors.torch import save

    # The format stores no sharing and no strides, so every tensor is written by itself.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.items()
    }
    return save(tensors, metadata={key: json.dumps(value) for key, value in extra.items()})
