"""Class names that travel with a model: `metadata.json` beside its checkpoint.

Names of classes live in `MetadataCatalog` of the process that registered the dataset. A model
that is used elsewhere finds them in this file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detectron2.data.catalog import Metadata, MetadataCatalog
from detectron2.utils.files import atomic_write_text

__all__ = ["METADATA_FILE", "described_classes", "load_metadata", "save_metadata"]

METADATA_FILE = "metadata.json"
_KEYS = (
    "thing_classes",
    "thing_colors",
    "stuff_classes",
    "stuff_colors",
    "keypoint_names",
    "keypoint_flip_map",
    "keypoint_connection_rules",
)
# How ids of segments are read: which classes are things, and ``class * label_divisor + number``.
_PANOPTIC_KEYS = ("label_divisor", "thing_dataset_id_to_contiguous_id")


def save_metadata(dataset_name: str, path: str | Path) -> None:
    """Write names and colours of the classes and keypoints of a registered dataset."""
    content = described_classes(MetadataCatalog.get(dataset_name))
    atomic_write_text(path, json.dumps(content, indent=1))


def described_classes(metadata: Metadata) -> dict[str, Any]:
    """Names and colours of the classes and keypoints, as plain data."""
    known = metadata.as_dict()
    keys = _KEYS + (_PANOPTIC_KEYS if "label_divisor" in known else ())
    return {key: known[key] for key in keys if key in known}


def load_metadata(path: str | Path) -> Metadata:
    """Metadata written by `save_metadata`.

    Raises:
        ValueError: the file is no such file.
    """
    path = Path(path)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        values = {key: content[key] for key in _KEYS + _PANOPTIC_KEYS if key in content}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is no metadata file of a model: {error}.") from error
    for key in ("keypoint_flip_map", "keypoint_connection_rules"):
        if key in values:
            values[key] = [tuple(row) for row in values[key]]
    numbers = values.get("thing_dataset_id_to_contiguous_id")
    if numbers is not None:  # JSON has texts for keys
        values["thing_dataset_id_to_contiguous_id"] = {int(k): v for k, v in numbers.items()}
    return Metadata(name=str(path), **values)
