"""Reading files of precomputed proposals."""

from __future__ import annotations

import pickle
from typing import IO, Any

import numpy as np

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["read_proposals"]

# Names of Detectron's older files.
_RENAMED = {"indexes": "ids", "scores": "objectness_logits"}

# What a pickle of arrays, numbers and strings refers to. Other classes could run code.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}
_BOX_MODE = ("detectron2.structures.boxes", "BoxMode")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _BOX_MODE:
            return BoxMode
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is no array")


def read_proposals(file_name: str) -> dict[str, Any]:
    """Proposals of a dataset from a pickled dictionary of arrays.

    Returns:
        "ids", one per image; "boxes", (N, 4) per image; "objectness_logits", (N,) per image; and
        "bbox_mode", a `BoxMode` (xyxy in pixels where the file does not say).

    Raises:
        ValueError: the file holds something else.
    """
    with PathManager.open(file_name, "rb") as stream:
        content = _load(stream, file_name)
    if not isinstance(content, dict):
        raise ValueError(
            f"The proposal file {file_name!r} holds a {type(content).__name__}, not a dictionary."
        )
    content = {_RENAMED.get(key, key): value for key, value in content.items()}
    missing = [key for key in ("ids", "boxes", "objectness_logits") if key not in content]
    if missing:
        raise ValueError(
            f"The proposal file {file_name!r} lacks {', '.join(missing)}; it has "
            f"{', '.join(map(str, content))}."
        )
    content["bbox_mode"] = BoxMode(content.get("bbox_mode", BoxMode.XYXY_ABS))
    lengths = {key: len(content[key]) for key in ("ids", "boxes", "objectness_logits")}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"The entries of {file_name!r} differ in length: {lengths}.")
    content["objectness_logits"] = [np.asarray(v) for v in content["objectness_logits"]]
    return content


def _load(stream: IO[bytes], file_name: str) -> Any:
    try:
        # Python 2 wrote the older files.
        return _ArrayUnpickler(stream, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError) as e:
        raise ValueError(
            f"{file_name!r} cannot be read as a proposal file: {e}. It must be a pickled "
            "dictionary of NumPy arrays."
        ) from e
