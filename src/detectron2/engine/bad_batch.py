"""A batch that made a training step fail, as a file (`detectron2.engine.replay_batch` reads it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from detectron2.checkpoint._files import load_torch_file
from detectron2.engine.sharding import full_weights
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)
from detectron2.utils.files import atomic_write_bytes

__all__ = ["load_batch", "save_batch"]

# Checkpoint files hold plain data only, so that reading one runs no code.
_KIND = "__kind__"
_WITH_TENSOR = {kind.__name__: kind for kind in (Boxes, RotatedBoxes, BitMasks, Keypoints)}


def save_batch(
    path: str,
    trainer: Any,
    batches: Sequence[Any],
    random_numbers: Mapping[str, Any],
    config: str,
) -> None:
    """Write batches with the weights and random numbers that they met.

    Raises:
        OSError: the file cannot be written.
        TypeError: the batch holds objects of a kind that cannot be written.
    """
    content = {
        "batches": [_plain(batch) for batch in batches],
        "model": full_weights(trainer.model),
        "random_state": dict(random_numbers),
        "iteration": trainer.iter,
        "config": config,
    }
    atomic_write_bytes(path, lambda file: torch.save(content, file))


def load_batch(path: str) -> dict[str, Any]:
    """What `save_batch` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    content = load_torch_file(path)
    if not isinstance(content, dict) or "batches" not in content:
        raise ValueError(
            f"{path!r} holds no batch; name a file of the folder bad_batches of a training."
        )
    return {**content, "batches": [_object(batch) for batch in content["batches"]]}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {_KIND: "ndarray", "tensor": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, Instances):
        fields = {name: _plain(field) for name, field in value.get_fields().items()}
        return {_KIND: "Instances", "size": list(value.image_size), "fields": fields}
    if isinstance(value, PolygonMasks):
        return {_KIND: "PolygonMasks", "polygons": _plain(value.polygons)}
    if isinstance(value, BitMasks):
        return {_KIND: "BitMasks", "tensor": value.tensor.cpu()}
    if type(value).__name__ in _WITH_TENSOR:
        return {_KIND: type(value).__name__, "tensor": value.tensor.cpu()}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    # What mappers of projects add beside the model's inputs is not needed to repeat the step.
    return {_KIND: "unknown", "type": type(value).__name__}


def _object(value: Any) -> Any:
    if isinstance(value, list):
        return [_object(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {key: _object(item) for key, item in value.items()}
    if kind == "ndarray":
        return value["tensor"].numpy()
    if kind == "Instances":
        fields = {name: _object(field) for name, field in value["fields"].items()}
        return Instances(tuple(value["size"]), **fields)
    if kind == "PolygonMasks":
        return PolygonMasks(_object(value["polygons"]))
    if kind in _WITH_TENSOR:
        return _WITH_TENSOR[kind](value["tensor"])
    return None
