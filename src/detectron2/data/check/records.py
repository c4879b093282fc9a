"""Datasets that are registered as a list of records, whatever they were read from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from detectron2.data.check.policy import cleaned_content
from detectron2.data.check.problems import ORIGIN, Problem
from detectron2.data.check.run import Dataset
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["cleaned_records", "record_dataset"]

Record = dict[str, Any]


def record_dataset(name: str, records: Sequence[Record], classes: Sequence[str] | None) -> Dataset:
    """Records as what `check` takes.

    Args:
        name: of the dataset.
        records: in the standard format; "file_name" is a path.
        classes: names; None takes the class numbers that occur.
    """
    images = [_image(record, position) for position, record in enumerate(records)]
    annotations = [
        _annotation(annotation, position, i)
        for position, record in enumerate(records)
        for i, annotation in enumerate(record.get("annotations", []))
    ]
    if classes is None:
        numbers = {a["category_id"] for a in annotations if isinstance(a.get("category_id"), int)}
        categories = [{"id": number, "name": str(number)} for number in sorted(numbers)]
    else:
        categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    digest = hashlib.sha256(json.dumps(content, default=repr).encode()).hexdigest()
    return Dataset(name, digest, content)


def _image(record: Record, position: int) -> dict[str, Any]:
    width, height = record.get("width"), record.get("height")
    if width is None or height is None:  # then the size of the file counts
        width, height = _size_of_file(record.get("file_name"))
    file_name = record.get("file_name")
    return {
        "id": position,
        "file_name": None if file_name is None else str(file_name),
        "width": width,
        "height": height,
        ORIGIN: position,
    }


def _size_of_file(file_name: Any) -> tuple[int, int]:
    try:
        with PathManager.open(file_name, "rb") as stream:
            return Image.open(stream).size
    except (OSError, ValueError, TypeError):
        return (1, 1)  # no size is wrong with a file that cannot be read; that will be said


def _annotation(annotation: Any, position: int, number: int) -> dict[str, Any]:
    """COCO's form of an annotation; what cannot be converted is left for the check to find."""
    entry = dict(annotation) if isinstance(annotation, dict) else {}
    entry.update(image_id=position, id=f"{position}.{number}")
    entry[ORIGIN] = [position, number]
    category = entry.get("category_id")
    if isinstance(category, np.integer):
        entry["category_id"] = int(category)
    entry["bbox"] = _box(entry)
    entry.pop("bbox_mode", None)
    if isinstance(entry.get("segmentation"), np.ndarray):
        entry["segmentation"] = _rle(entry["segmentation"])
    elif isinstance(entry.get("segmentation"), list):
        entry["segmentation"] = [_flat(polygon) for polygon in entry["segmentation"]]
    if entry.get("keypoints") is not None:
        entry["keypoints"] = _flat(entry["keypoints"])
    return entry


def _box(entry: Record) -> Any:
    box = _flat(entry.get("bbox"))
    mode = entry.get("bbox_mode")
    if not isinstance(box, list) or mode is None:
        return None
    if mode == BoxMode.XYWHA_ABS:
        return box
    try:
        return [float(v) for v in BoxMode.convert(box, BoxMode(mode), BoxMode.XYWH_ABS)]
    except (ValueError, TypeError, AssertionError, NotImplementedError):
        return box


def _flat(values: Any) -> Any:
    try:
        return np.asarray(values, dtype=np.float64).reshape(-1).tolist()
    except (ValueError, TypeError):
        return values


def _rle(mask: np.ndarray) -> dict[str, Any]:
    flat = np.asarray(mask, dtype=bool).reshape(-1, order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    return {
        "size": list(mask.shape[:2]),
        "counts": np.diff(changes, prepend=0, append=flat.size).tolist(),
    }


def cleaned_records(
    records: Sequence[Record], dataset: Dataset, problems: Sequence[Problem], policy: str
) -> list[Record]:
    """`cleaned_content` for the records that `dataset` was made from."""
    content = cleaned_content(dataset.load(), problems, policy)
    annotations: dict[int, list[Record]] = {}
    for entry in content["annotations"]:
        position, number = entry[ORIGIN]
        original = records[position]["annotations"][number]
        annotations.setdefault(position, []).append(_mended(original, entry, dataset))
    kept = []
    for image in content["images"]:
        record = dict(records[image[ORIGIN]])
        for side in ("width", "height"):
            if side in record:
                record[side] = image[side]
        if "annotations" in record:
            record["annotations"] = annotations.get(image[ORIGIN], [])
        kept.append(record)
    return kept


def _mended(original: Record, entry: Record, dataset: Dataset) -> Record:
    """The original with what a repair has changed."""
    position, number = entry[ORIGIN]
    before = _annotation(original, position, number)
    changed = {
        key: value
        for key, value in entry.items()
        if key not in ("id", "image_id", ORIGIN) and before.get(key) != value
    }
    if not changed:
        return original
    if "bbox" in changed:
        rotated = len(changed["bbox"]) == 5
        changed["bbox_mode"] = BoxMode.XYWHA_ABS if rotated else BoxMode.XYWH_ABS
    return {**original, **changed}
