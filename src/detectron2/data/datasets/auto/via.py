"""VGG Image Annotator: JSON exports, projects and CSV exports of versions 1 and 2."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.data.datasets.auto.folder import (
    CLASS_NAME,
    FolderDataset,
    Notes,
    Record,
    files_by_split,
    named_dataset,
)
from detectron2.data.datasets.auto.images import ImageFolder
from detectron2.data.datasets.auto.nodes import Node, read_json, read_text
from detectron2.data.datasets.auto.shapes import ellipse, polygon_annotation

__all__ = ["LOOKED_FOR", "find"]

LOOKED_FOR = "VIA: a .json or .csv export of the VGG Image Annotator beside the images"

# Attributes that hold the class are mostly called so.
_CLASS_ATTRIBUTES = (
    "class", "label", "name", "type", "category", "object", "object_name", "class_name",
)  # fmt: skip
_PROJECT_KEY = "_via_img_metadata"
_CSV_COLUMN = "region_shape_attributes"


def find(folder: Path) -> FolderDataset | None:
    """The dataset of a folder with a VIA export, or with one in each split folder."""
    files = files_by_split(folder, _exports)
    if not files:
        return None
    images = ImageFolder(folder)
    default = folder.resolve().name or "object"
    attribute = _class_attribute([entry for paths in files.values() for entry in _entries(paths)])
    readers = {
        split: functools.partial(_read, paths, images, attribute, default)
        for split, paths in files.items()
    }
    return named_dataset(folder, "VIA", readers, images)


def _exports(folder: Path) -> list[Path]:
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    found = [path for path in paths if path.suffix.lower() == ".json" and _is_export(path)]
    if found:
        return found
    return [path for path in paths if path.suffix.lower() == ".csv" and _is_csv_export(path)]


def _is_export(path: Path) -> bool:
    try:
        content = read_json(path).value
    except ValueError:
        return False
    if not isinstance(content, dict):
        return False
    if _PROJECT_KEY in content:
        return True
    first = next(iter(content.values()), None)
    return isinstance(first, dict) and "regions" in first and "filename" in first


def _is_csv_export(path: Path) -> bool:
    try:
        return _CSV_COLUMN in read_text(path).partition("\n")[0]
    except ValueError:
        return False


def _entries(paths: list[Path]) -> Iterator[Node]:
    """Entries of images: "filename" and "regions"."""
    for path in paths:
        if path.suffix.lower() == ".csv":
            yield from _csv_entries(path)
            continue
        content = read_json(path)
        project = content.get(_PROJECT_KEY)
        yield from (content if project is None else project).elements()


def _csv_entries(path: Path) -> Iterator[Node]:
    """Rows of one image after the other become the entry that the JSON export would have."""
    regions: dict[str, list[Any]] = {}
    try:
        for line, row in enumerate(csv.DictReader(io.StringIO(read_text(path))), 2):
            name = row.get("filename") or row.get("#filename")
            if not name:
                raise ValueError(f"Line {line} of {str(path)!r} has no filename.")
            found = regions.setdefault(name, [])
            shape = row.get(_CSV_COLUMN) or "{}"
            if shape == "{}":
                continue
            found.append(
                {
                    "shape_attributes": json.loads(shape),
                    "region_attributes": json.loads(row.get("region_attributes") or "{}"),
                }
            )
    except (csv.Error, json.JSONDecodeError, RecursionError) as e:
        raise ValueError(f"{str(path)!r} cannot be read as a VIA export: {e}.") from e
    for name, shapes in regions.items():
        yield Node({"filename": name, "regions": shapes}, f"{str(path)!r}, image {name!r}")


def _class_attribute(entries: list[Node]) -> str | None:
    """The attribute of regions that says their class: by its name, else the most frequent one."""
    counts = Counter(
        key
        for entry in entries
        for region in entry["regions"].elements()
        if (attributes := region.get("region_attributes")) is not None
        for key, value in attributes.mapping().items()
        if isinstance(value, (str, int)) and value != ""
    )
    if not counts:
        return None
    named = [key for key in counts if key.lower() in _CLASS_ATTRIBUTES]
    return max(named or counts, key=lambda key: counts[key])


def _read(
    paths: list[Path], images: ImageFolder, attribute: str | None, default: str, notes: Notes
) -> Iterator[Record]:
    seen = set()
    for entry in _entries(paths):
        name = entry["filename"].text()
        path = images.find(name, near=paths[0].parent)
        if path is None:
            notes["images that the export lists do not exist and are left out"] += 1
            continue
        record = images.record(path)
        if record is None or path in seen:
            continue
        seen.add(path)
        record["annotations"] = [
            annotation
            for region in entry["regions"].elements()
            if (annotation := _annotation(region, attribute, default, notes)) is not None
        ]
        yield record


def _annotation(
    region: Node, attribute: str | None, default: str, notes: Notes
) -> dict[str, Any] | None:
    polygon = _outline(region["shape_attributes"])
    if polygon is None:
        notes["regions are points or lines, which cover nothing, and are left out"] += 1
        return None
    attributes = region.get("region_attributes")
    value = attributes.get(attribute) if attributes is not None and attribute else None
    name = "" if value is None else value.label()
    if not name:
        notes[f"regions have no class and count as {default!r}"] += 1
    return {**polygon_annotation([polygon]), CLASS_NAME: name or default}


def _outline(shape: Node) -> list[float] | None:
    kind = shape["name"].text()
    if kind == "rect":
        x, y = shape["x"].number(), shape["y"].number()
        w, h = shape["width"].number(), shape["height"].number()
        return [x, y, x + w, y, x + w, y + h, x, y + h]
    if kind in ("polygon", "polyline"):
        xs, ys = shape["all_points_x"].numbers(), shape["all_points_y"].numbers()
        if len(xs) != len(ys):
            raise shape.fail(f"has {len(xs)} x and {len(ys)} y coordinates.")
        if kind == "polyline" or len(xs) < 3:
            return None
        return [value for point in zip(xs, ys) for value in point]
    if kind == "circle":
        r = shape["r"].number()
        return ellipse(shape["cx"].number(), shape["cy"].number(), r, r)
    if kind == "ellipse":
        turned = shape.get("theta")
        return ellipse(
            shape["cx"].number(),
            shape["cy"].number(),
            shape["rx"].number(),
            shape["ry"].number(),
            math.fmod(turned.number(), 2 * math.pi) if turned is not None else 0.0,
        )
    if kind == "point":
        return None
    raise shape.fail(f"has the unknown shape {kind!r}.")
