"""Predictions as bytes: JSON for the structure, raw memory for the numbers, no pickle.

A record is the length of its JSON text (4 bytes), the text, and the buffers that the text mentions
in their order. Reading one cannot run code, and gives back what was written: dictionaries, lists,
numbers, text, bytes, arrays, tensors, `CocoResults`, and `Instances` of boxes and tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from detectron2.evaluation.coco_results import CocoResults
from detectron2.structures import Boxes, Instances, RotatedBoxes

__all__ = ["NotStorable", "decode", "encode"]

_KIND = "$"  # key that marks a dictionary as something else than a dictionary
_LENGTH = struct.Struct("<I")
_BOXES = {"Boxes": Boxes, "RotatedBoxes": RotatedBoxes}


class NotStorable(TypeError):
    """A value that a record cannot hold."""


def encode(value: Any) -> bytes:
    """Bytes of a value.

    Raises:
        NotStorable: something in it is of a type that records do not know.
    """
    buffers: list[bytes] = []
    text = json.dumps(_described(value, buffers), separators=(",", ":")).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *buffers])


def decode(data: bytes) -> Any:
    """The value that `encode` made `data` of. Its arrays are copies that may be written to."""
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    return _Reader(data, start).value(json.loads(data[_LENGTH.size : start]))


def _described(value: Any, buffers: list[bytes]) -> Any:
    """What JSON can say of a value; the rest goes to `buffers`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    for kind, describe in _DESCRIBE.items():
        if isinstance(value, kind):
            return describe(value, buffers)
    raise NotStorable(f"A {type(value).__name__} cannot be written to a file of predictions.")


def _describe_bytes(value: bytes, buffers: list[bytes]) -> Any:
    buffers.append(value)
    return {_KIND: "bytes", "size": len(value)}


def _describe_array(value: np.ndarray, buffers: list[bytes]) -> Any:
    if value.dtype.kind not in "biuf":
        raise NotStorable(f"An array of {value.dtype} cannot be written to a file of predictions.")
    buffers.append(value.tobytes())
    return {_KIND: "array", "dtype": value.dtype.str, "shape": value.shape}


def _describe_tensor(value: torch.Tensor, buffers: list[bytes]) -> Any:
    return {_KIND: "tensor", "array": _describe_array(value.detach().cpu().numpy(), buffers)}


def _describe_dict(value: dict[Any, Any], buffers: list[bytes]) -> Any:
    if all(isinstance(key, str) for key in value) and _KIND not in value:
        return {key: _described(item, buffers) for key, item in value.items()}
    pairs = [[_described(k, buffers), _described(v, buffers)] for k, v in value.items()]
    return {_KIND: "dict", "pairs": pairs}


def _describe_instances(value: Instances, buffers: list[bytes]) -> Any:
    fields = {}
    for name, field in value.get_fields().items():
        kind = type(field).__name__
        if _BOXES.get(kind) is type(field):
            fields[name] = [kind, _described(field.tensor, buffers)]
        elif isinstance(field, torch.Tensor):
            fields[name] = ["Tensor", _described(field, buffers)]
        else:
            raise NotStorable(f"Field {name!r} is a {kind}, which is not stored.")
    return {_KIND: "instances", "size": list(value.image_size), "fields": fields}


def _describe_results(value: CocoResults, buffers: list[bytes]) -> Any:
    columns: dict[str, Any] = {"image_ids": value.image_ids.tolist()[:1] if len(value) else []}
    if len(set(value.image_ids.tolist())) > 1:
        raise NotStorable("Detections of several images are not stored as one record.")
    columns["is_text"] = value.image_ids.dtype == object
    for name in ("category_ids", "scores", "boxes", "mask_sizes", "mask_areas", "keypoints"):
        column = getattr(value, name)
        columns[name] = None if column is None else _described(_narrow(column), buffers)
    columns["mask_counts"] = None
    if value.mask_counts is not None:
        lengths = np.array([len(counts) for counts in value.mask_counts], dtype=np.int32)
        columns["mask_counts"] = [
            _described(lengths, buffers),
            _described(b"".join(value.mask_counts), buffers),
        ]
    return {_KIND: "results", "columns": columns}


def _narrow(column: np.ndarray) -> np.ndarray:
    """The same numbers in half of the bytes, where that loses nothing."""
    small = column.astype(np.float32 if column.dtype.kind == "f" else np.int32)
    return small if np.array_equal(small, column) else column


_DESCRIBE: dict[Any, Callable[[Any, list[bytes]], Any]] = {
    bytes: _describe_bytes,
    (np.bool_, np.integer, np.floating): lambda value, buffers: value.item(),
    np.ndarray: _describe_array,
    torch.Tensor: _describe_tensor,
    CocoResults: _describe_results,
    Instances: _describe_instances,
    dict: _describe_dict,
    (list, tuple): lambda value, buffers: [_described(item, buffers) for item in value],
}


class _Reader:
    """Turns descriptions back into values; buffers are read one after the other."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._at = start

    def value(self, described: Any) -> Any:
        if isinstance(described, list):
            return [self.value(item) for item in described]
        if not isinstance(described, dict):
            return described
        if _KIND not in described:
            return {key: self.value(item) for key, item in described.items()}
        return _READ[described[_KIND]](self, described)

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _bytes(self, described: dict[str, Any]) -> bytes:
        return self._take(described["size"])

    def _array(self, described: dict[str, Any]) -> np.ndarray:
        dtype = np.dtype(described["dtype"])
        size = int(np.prod(described["shape"], dtype=np.int64)) * dtype.itemsize
        return np.frombuffer(self._take(size), dtype).reshape(described["shape"]).copy()

    def _tensor(self, described: dict[str, Any]) -> torch.Tensor:
        return torch.from_numpy(self._array(described["array"]))

    def _dict(self, described: dict[str, Any]) -> dict[Any, Any]:
        return {self.value(key): self.value(item) for key, item in described["pairs"]}

    def _instances(self, described: dict[str, Any]) -> Instances:
        fields = {}
        for name, (kind, field) in described["fields"].items():
            tensor = self.value(field)
            fields[name] = _BOXES[kind](tensor) if kind in _BOXES else tensor
        return Instances(tuple(described["size"]), **fields)

    def _results(self, described: dict[str, Any]) -> CocoResults:
        columns = described["columns"]
        values = {
            name: self._column(columns[name])
            for name in ("category_ids", "scores", "boxes", "mask_sizes", "mask_areas", "keypoints")
        }
        count = len(values["scores"])
        image = columns["image_ids"][0] if count else None
        dtype: Any = object if columns["is_text"] else np.int64
        counts = None
        if columns["mask_counts"] is not None:
            lengths, text = (self.value(part) for part in columns["mask_counts"])
            ends = np.cumsum(lengths).tolist()
            counts = [text[start:end] for start, end in zip([0, *ends], ends)]
        ids = np.full(count, image if count else 0, dtype=dtype)
        return CocoResults(image_ids=ids, mask_counts=counts, **values)

    def _column(self, described: Any) -> np.ndarray | None:
        """A column in the type that `CocoResults` has it in."""
        if described is None:
            return None
        column = self.value(described)
        return column.astype(np.float64 if column.dtype.kind == "f" else np.int64)


_READ: dict[str, Callable[[_Reader, dict[str, Any]], Any]] = {
    "bytes": _Reader._bytes,
    "array": _Reader._array,
    "tensor": _Reader._tensor,
    "dict": _Reader._dict,
    "instances": _Reader._instances,
    "results": _Reader._results,
}
