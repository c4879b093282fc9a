"""YOLO: one text file of labels per image, as Darknet, YOLOv5 and YOLOv8 have them.

A line is a class number and what follows, all coordinates as parts of the width and height:

- boxes: x, y of the centre, width, height;
- segments: x, y of three or more corners;
- oriented boxes: x, y of four corners, which form a rectangle;
- poses: a box, then x, y (and visibility) of each keypoint, if data.yaml has ``kpt_shape``.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detectron2.data.datasets.auto.folder import (
    ALL,
    FolderDataset,
    Notes,
    Record,
    by_split_folder,
    keypoint_metadata,
    split_folders_or_all,
    unreadable_notes,
    written_class_names,
)
from detectron2.data.datasets.auto.images import ImageFolder, is_image
from detectron2.data.datasets.auto.nodes import Node, finite, read_text
from detectron2.data.datasets.auto.shapes import (
    box_annotation,
    is_parallelogram,
    polygon_annotation,
    rotated_annotation,
    rotated_box,
)

__all__ = ["LOOKED_FOR", "find"]

LOOKED_FOR = (
    "YOLO: a .yaml file with 'names' and 'train', or label .txt files beside the images or in "
    "labels/"
)

_BOX, _SEGMENT, _ORIENTED, _POSE = "boxes", "segments", "oriented boxes", "poses"


@dataclass(frozen=True)
class _Layout:
    """What is known before labels are read.

    sources: split to image files, in order.
    kpt_shape: (number, 2 or 3) of the keypoints of a pose, or None.
    kpt_names, flip: their names, and which takes the place of each in a mirror.
    """

    classes: list[str]
    sources: dict[str, list[Path]]
    kpt_shape: tuple[int, int] | None = None
    kpt_names: list[str] = field(default_factory=list)
    flip: list[int] | None = None


def find(folder: Path) -> FolderDataset | None:
    """The dataset of a folder with YOLO labels."""
    layout = _from_yaml(folder) or _from_folders(folder)
    if layout is None:
        return None
    notes: Notes = Counter()
    kind = _kind(layout, notes)
    images = ImageFolder(folder)
    for split in layout.sources:
        _read(layout, split, kind, images, notes)
    metadata = {}
    if layout.kpt_shape is not None:
        metadata = keypoint_metadata(layout.kpt_names, layout.flip)
    return FolderDataset(
        folder=folder,
        format=f"YOLO {kind}",
        classes=layout.classes,
        splits={
            split: functools.partial(_read, layout, split, kind, images, None)
            for split in layout.sources
        },
        metadata=metadata,
        notes=[f"{count} {what}." for what, count in notes.items()] + unreadable_notes(images),
        rotated=kind == _ORIENTED,
    )


def _from_yaml(folder: Path) -> _Layout | None:
    for path in sorted(folder.glob("*.y*ml"), key=lambda path: (path.stem != "data", path.name)):
        content = _read_yaml(path)
        if "names" in content and any(split in content for split in ("train", "val", "test")):
            return _described(content, path)
    return None


def _read_yaml(path: Path) -> Node:
    try:
        return Node(yaml.safe_load(read_text(path)), str(path))
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ValueError(f"{str(path)!r} is no YAML file: {' '.join(str(e).split())}.") from e


def _described(content: Node, path: Path) -> _Layout:
    named = content["names"]
    if isinstance(named.value, dict):
        rows = sorted((Node(key, f"a key of {named.where}").integer(), key) for key in named.value)
        if [number for number, _ in rows] != list(range(len(rows))):
            raise named.fail("must number the classes 0, 1, ...")
        classes = [named[key].label() for _, key in rows]
    else:
        classes = [name.label() for name in named.elements()]
    if not classes:
        raise named.fail("is empty.")
    roots = [path.parent]
    base = content.get("path")
    if base is not None:
        roots.insert(0, path.parent / base.text())
    sources = {}
    for split in ("train", "val", "test"):
        given = content.get(split)
        if given is not None and given.value not in ("", []):
            places = [given] if isinstance(given.value, str) else list(given.elements())
            sources[split] = [
                image for place in places for image in _images_at(place.text(), roots, place)
            ]
    shape = content.get("kpt_shape")
    if shape is None:
        return _Layout(classes, sources)
    count, columns = _kpt_shape(shape)
    flip = content.get("flip_idx")
    return _Layout(
        classes=classes,
        sources=sources,
        kpt_shape=(count, columns),
        kpt_names=_kpt_names(content, count),
        flip=None if flip is None else _flip(flip, count),
    )


def _kpt_shape(shape: Node) -> tuple[int, int]:
    numbers = [element.integer() for element in shape.elements()]
    if len(numbers) != 2 or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise shape.fail("must be [number of keypoints, 2 or 3].")
    return numbers[0], numbers[1]


def _kpt_names(content: Node, count: int) -> list[str]:
    """Names that are written, for the first class or for all; else numbers."""
    named = content.get("kpt_names")
    if named is None:
        return [f"keypoint {i}" for i in range(count)]
    first = next(named.elements(), named)
    names = [
        name.label() for name in (first if isinstance(first.value, list) else named).elements()
    ]
    if len(names) != count:
        raise named.fail(f"has {len(names)} names for {count} keypoints.")
    return names


def _flip(flip: Node, count: int) -> list[int]:
    indices = [element.integer() for element in flip.elements()]
    if sorted(indices) != list(range(count)):
        raise flip.fail(f"must hold each of the {count} keypoints once.")
    return indices


def _images_at(place: str, roots: Sequence[Path], node: Node) -> list[Path]:
    """Images of a folder, or of the lines of a list, that data.yaml names."""
    # Exports often say ../train/images where they mean train/images.
    inner = Path(*[part for part in Path(place).parts if part != ".."] or ["."])
    for root in roots:
        for path in (root / place, root / inner):
            if path.is_dir():
                return sorted(file for file in path.rglob("*") if is_image(file))
            if path.is_file() and path.suffix == ".txt":
                return _listed(path)
    raise node.fail(f"names {place!r}, which is neither a folder nor a list of images.")


def _listed(path: Path) -> list[Path]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [path.parent / line for line in lines if line and is_image(line)]


def _from_folders(folder: Path) -> _Layout | None:
    """Without data.yaml: images/ and labels/ (with split folders), or labels beside images."""
    roots = _image_folders(folder)
    sources = {
        split: sorted(file for file in root.rglob("*") if is_image(file))
        for split, root in roots.items()
    }
    labels = [label for files in sources.values() for image in files if (label := _label(image))]
    if not labels or not _looks_like_labels(labels[:20]):
        return None
    classes = written_class_names(folder) or written_class_names(folder / "labels")
    if classes is None:
        numbers = {int(line.values[0]) for path in labels for line in _lines(path)}
        classes = [f"class {i}" for i in range(int(max(numbers, default=0)) + 1)]
    return _Layout(classes, {split: files for split, files in sources.items() if files})


def _image_folders(folder: Path) -> dict[str, Path]:
    if (folder / "images").is_dir():
        return split_folders_or_all(folder / "images")
    inside = {split: below / "images" for split, below in by_split_folder(folder).items()}
    if inside and all(path.is_dir() for path in inside.values()):
        return inside
    return split_folders_or_all(folder) if not inside else by_split_folder(folder) or {ALL: folder}


def _looks_like_labels(paths: Iterable[Path]) -> bool:
    try:
        lines = [line for path in paths for line in _lines(path)]
    except ValueError:
        return False
    return bool(lines) and all(len(line.values) >= 5 for line in lines)


def _label(image: Path) -> Path | None:
    """The label file of an image: in labels/ where the image is in images/, or beside it."""
    parts = list(image.parts)
    places = [image.with_suffix(".txt")]
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            places.insert(0, Path(*parts).with_suffix(".txt"))
            break
    return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True)
class _Line:
    where: str
    values: list[float]


def _lines(path: Path) -> Iterator[_Line]:
    for number, text in enumerate(read_text(path).splitlines(), 1):
        if text.strip():
            where = f"Line {number} of {str(path)!r}"
            yield _Line(where, [finite(word, f"A value of {where}") for word in text.split()])


def _kind(layout: _Layout, notes: Notes) -> str:
    """What the labels are; lengths tell, and for four corners whether they are rectangles."""
    if layout.kpt_shape is not None:
        return _POSE
    lengths: Counter[int] = Counter()
    rectangles = 0
    for files in layout.sources.values():
        for image in files:
            label = _label(image)
            for line in _lines(label) if label is not None else ():
                lengths[len(line.values)] += 1
                if len(line.values) == 9:
                    rectangles += is_parallelogram(np.array(line.values[1:]).reshape(4, 2))
    if lengths.keys() <= {5, 6}:
        return _BOX
    if lengths.keys() == {9} and rectangles >= 0.9 * lengths[9]:
        notes["labels have four corners of a rectangle and are read as oriented boxes"] = lengths[9]
        return _ORIENTED
    return _SEGMENT


def _read(
    layout: _Layout, split: str, kind: str, images: ImageFolder, notes: Notes | None
) -> list[Record]:
    records = []
    notes = Counter() if notes is None else notes
    for image in layout.sources[split]:
        if not image.is_file():
            notes["images that a list names do not exist and are left out"] += 1
            continue
        record = images.record(image)
        if record is None:
            continue
        label = _label(image)
        if label is None:
            notes["images have no label file and count as images without objects"] += 1
        record["annotations"] = [
            _annotation(line, record, kind, layout)
            for line in (_lines(label) if label is not None else ())
        ]
        records.append(record)
    return records


def _annotation(line: _Line, record: Record, kind: str, layout: _Layout) -> dict[str, Any]:
    number = line.values[0]
    if number != int(number) or not 0 <= number < len(layout.classes):
        raise ValueError(
            f"{line.where} has class {number:g}, but there are {len(layout.classes)} classes, "
            "numbered from 0."
        )
    scale = np.array([record["width"], record["height"]], dtype=np.float64)
    values = line.values[1:]
    if kind == _POSE:
        annotation = _pose(line, scale, layout.kpt_shape or (0, 3))
    elif kind == _BOX or (kind == _SEGMENT and len(values) in (4, 5)):
        annotation = _box(line, scale)
    elif len(values) < 6 or len(values) % 2:
        raise ValueError(f"{line.where} has {len(values)} coordinates, which are no {kind}.")
    elif kind == _ORIENTED:
        annotation = rotated_annotation(rotated_box(np.array(values).reshape(-1, 2) * scale))
    else:
        polygon = (np.array(values).reshape(-1, 2) * scale).reshape(-1).tolist()
        annotation = polygon_annotation([polygon])
    return {**annotation, "category_id": int(number)}


def _box(line: _Line, scale: np.ndarray) -> dict[str, Any]:
    # A sixth value is the score of a prediction.
    if len(line.values) not in (5, 6):
        raise ValueError(f"{line.where} has {len(line.values)} values; a box has 5.")
    centre = np.array(line.values[1:3]) * scale
    half = np.array(line.values[3:5]) * scale / 2
    return box_annotation(*(centre - half).tolist(), *(centre + half).tolist())


def _pose(line: _Line, scale: np.ndarray, shape: tuple[int, int]) -> dict[str, Any]:
    count, columns = shape
    if len(line.values) != 5 + count * columns:
        raise ValueError(
            f"{line.where} has {len(line.values)} values; a class, a box and {count} keypoints of "
            f"{columns} values are {5 + count * columns}."
        )
    points = np.array(line.values[5:]).reshape(count, columns)
    seen = points[:, 2] if columns == 3 else 2.0 * (points != 0).any(axis=1)
    keypoints = np.concatenate([points[:, :2] * scale, seen[:, None]], axis=1)
    box = _box(_Line(line.where, line.values[:5]), scale)
    return {**box, "keypoints": keypoints.reshape(-1).tolist()}
