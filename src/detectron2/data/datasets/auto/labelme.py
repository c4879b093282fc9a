"""LabelMe: one JSON file of shapes per image."""

from __future__ import annotations

import base64
import binascii
import functools
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detectron2.data.datasets.auto.folder import (
    CLASS_NAME,
    FolderDataset,
    Notes,
    Record,
    files_by_split,
    named_dataset,
)
from detectron2.data.datasets.auto.images import ImageFolder
from detectron2.data.datasets.auto.nodes import Node, read_json
from detectron2.data.datasets.auto.shapes import box_annotation, ellipse, polygon_annotation

__all__ = ["LOOKED_FOR", "find"]

LOOKED_FOR = "LabelMe: a .json file with 'shapes' and 'imagePath' per image"


def find(folder: Path) -> FolderDataset | None:
    """The dataset of a folder with LabelMe files, or with some in each split folder."""
    files = files_by_split(folder, _label_files)
    if not files:
        return None
    images = ImageFolder(folder)
    readers = {split: functools.partial(_read, paths, images) for split, paths in files.items()}
    return named_dataset(folder, "LabelMe", readers, images)


def _label_files(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*.json") if not path.name.startswith("."))
    # A folder of LabelMe files holds no other JSON files to speak of; a few are looked at.
    if not any(_is_label_file(path) for path in paths[:20]):
        return []
    return paths


def _is_label_file(path: Path) -> bool:
    try:
        content = read_json(path)
    except ValueError:
        return False
    return "shapes" in content and "imagePath" in content


def _read(paths: list[Path], images: ImageFolder, notes: Notes) -> Iterator[Record]:
    for path in paths:
        content = read_json(path)
        if "shapes" not in content:
            notes["JSON files have no 'shapes' and are left out"] += 1
            continue
        name = content["imagePath"].text()
        image = images.find(name, near=path.parent) or images.find(path.stem, near=path.parent)
        if image is None:
            notes["images that LabelMe files name do not exist and are left out"] += 1
            continue
        record = images.record(image)
        if record is None:
            continue
        record["annotations"] = list(_annotations(content, record, notes))
        yield record


def _annotations(content: Node, record: Record, notes: Notes) -> Iterator[dict[str, Any]]:
    # Shapes of one label and group are the parts of one object.
    parts_of: dict[tuple[str, str], list[list[float]]] = {}
    for number, shape in enumerate(content["shapes"].elements()):
        name = shape["label"].label()
        outline = _mask(shape, record) if _kind(shape) == "mask" else _outline(shape)
        if outline is None:
            notes["shapes are points or lines, which cover nothing, and are left out"] += 1
        elif isinstance(outline, dict):
            yield {**outline, CLASS_NAME: name}
        else:
            group = shape.get("group_id")
            key = f"alone {number}" if group is None else group.label()
            parts_of.setdefault((name, key), []).append(outline)
    for (name, _), parts in parts_of.items():
        yield {**polygon_annotation(parts), CLASS_NAME: name}


def _kind(shape: Node) -> str:
    kind = shape.get("shape_type")
    return "polygon" if kind is None else kind.text()


def _outline(shape: Node) -> list[float] | dict[str, Any] | None:
    """A polygon, the annotation of a box, or None for what covers nothing."""
    kind = _kind(shape)
    points = [_point(point) for point in shape["points"].elements()]
    if kind in ("point", "points", "line", "linestrip"):
        return None
    if kind == "rectangle":
        if len(points) == 4:
            return [value for point in points for value in point]
        if len(points) != 2:
            raise shape.fail(f"is a rectangle of {len(points)} points; it has two corners.")
        return box_annotation(*points[0], *points[1])
    if kind == "circle":
        if len(points) != 2:
            raise shape.fail(f"is a circle of {len(points)} points; it has a centre and a rim.")
        (cx, cy), rim = points
        radius = math.dist((cx, cy), rim)
        return ellipse(cx, cy, radius, radius)
    if kind != "polygon":
        raise shape.fail(f"has the unknown shape_type {kind!r}.")
    return [value for point in points for value in point] if len(points) >= 3 else None


def _point(point: Node) -> tuple[float, float]:
    numbers = point.numbers()
    if len(numbers) != 2:
        raise point.fail(f"has {len(numbers)} numbers; a point has two.")
    return numbers[0], numbers[1]


def _mask(shape: Node, record: Record) -> dict[str, Any]:
    """Annotation of a mask: a PNG of the box between two corners, which belong to it."""
    from hotcoco import mask as coco_mask

    corners = [_point(point) for point in shape["points"].elements()]
    if len(corners) != 2:
        raise shape.fail(f"is a mask with {len(corners)} points; it has the corners of its box.")
    left, top = (int(value) for value in corners[0])
    try:
        png = base64.b64decode(shape["mask"].text(), validate=True)
        with Image.open(io.BytesIO(png)) as picture:
            part = np.asarray(picture.convert("L")) > 0
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as e:
        raise shape.fail(f"has a mask that cannot be decoded: {e}.") from e
    height, width = part.shape
    if left < 0 or top < 0 or left + width > record["width"] or top + height > record["height"]:
        raise shape.fail("has a mask that reaches out of the image.")
    whole = np.zeros((record["height"], record["width"]), dtype=np.uint8, order="F")
    whole[top : top + height, left : left + width] = part
    rle = coco_mask.encode(whole)
    return {**box_annotation(left, top, left + width, top + height), "segmentation": rle}
