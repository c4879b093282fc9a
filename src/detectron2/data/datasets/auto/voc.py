"""Pascal VOC: one XML file of objects per image, and what LabelImg, roLabelImg and others make."""

from __future__ import annotations

import functools
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.data.datasets.auto.folder import (
    CLASS_NAME,
    FolderDataset,
    Notes,
    Record,
    files_by_split,
    named_dataset,
    with_classes,
)
from detectron2.data.datasets.auto.images import ImageFolder
from detectron2.data.datasets.auto.nodes import finite, read_text
from detectron2.data.datasets.auto.shapes import (
    box_annotation,
    polygon_annotation,
    rotated_annotation,
)
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

__all__ = ["LOOKED_FOR", "find"]

LOOKED_FOR = "Pascal VOC: .xml files with <object>, in Annotations/ or beside the images"


def find(folder: Path) -> FolderDataset | None:
    """The dataset of a folder in the layout of VOC, or with XML files beside the images."""
    files = _files(folder)
    if not files:
        return None
    images = ImageFolder(folder)
    readers = {split: functools.partial(_read, paths, images) for split, paths in files.items()}
    found = named_dataset(folder, "Pascal VOC", readers, images)
    if set(found.classes) <= set(CLASS_NAMES) and len(found.classes) > 10:
        # VOC itself, or a good part of it: its own order of classes.
        return with_classes(found, CLASS_NAMES)
    return found


def _files(folder: Path) -> dict[str, list[Path]]:
    """Split -> XML files."""
    labels = folder / "Annotations"
    if not labels.is_dir():
        return files_by_split(folder, _labels_below)
    return _listed(folder, labels) or files_by_split(labels, _labels_below)


def _listed(folder: Path, labels: Path) -> dict[str, list[Path]]:
    """The splits that ImageSets/Main lists."""
    files = {}
    for split, lists in (("train", ("train", "trainval")), ("val", ("val",)), ("test", ("test",))):
        for name in lists:
            path = folder / "ImageSets" / "Main" / f"{name}.txt"
            if path.is_file() and split not in files:
                lines = [line.strip() for line in read_text(path).splitlines()]
                files[split] = [_label_of(line, labels) for line in lines if line]
    return files


def _label_of(line: str, labels: Path) -> Path:
    """The XML file of a line: a name, behind which VOC may say whether a class is there."""
    whole = labels / f"{line}.xml"
    return whole if whole.is_file() else labels / f"{line.split()[0]}.xml"


def _labels_below(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*.xml") if not path.name.startswith("."))
    for path in paths[:20]:
        try:
            if _parse(path).tag == "annotation":
                return paths
        except ValueError:
            continue
    return []


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(read_text(path))
    except (ElementTree.ParseError, ValueError, RecursionError) as e:
        raise ValueError(f"{str(path)!r} is no XML file: {e}") from e


def _read(paths: Sequence[Path], images: ImageFolder, notes: Notes) -> Iterator[Record]:
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{str(path)!r} does not exist, though ImageSets lists it.")
        root = _parse(path)
        name = (root.findtext("filename") or "").strip()
        image = (images.find(name, near=path.parent) if name else None) or images.find(
            path.stem, near=path.parent
        )
        if image is None:
            notes["XML files name an image that does not exist and are left out"] += 1
            continue
        record = images.record(image)
        if record is None:
            continue
        record["annotations"] = [
            _object(element, f"object {number} of {str(path)!r}")
            for number, element in enumerate(root.iter("object"), 1)
        ]
        yield record


def _object(element: ElementTree.Element, where: str) -> dict[str, Any]:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"The {where} has no <name>.")
    turned = element.find("robndbox")
    if turned is not None:
        cx, cy, w, h, radians = _numbers(turned, ("cx", "cy", "w", "h", "angle"), where)
        # roLabelImg turns clockwise.
        degrees = -math.degrees(radians)
        return {**rotated_annotation([cx, cy, w, h, degrees]), CLASS_NAME: name}
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"The {where} has no <bndbox>.")
    x0, y0, x1, y1 = _numbers(box, ("xmin", "ymin", "xmax", "ymax"), where)
    # VOC counts pixels from 1 and includes the last: 1..n covers the coordinates 0 to n.
    annotation = box_annotation(x0 - 1, y0 - 1, x1, y1)
    polygons = [_polygon(part, where) for part in element.findall("polygon")]
    if polygons:
        annotation["segmentation"] = polygon_annotation(polygons)["segmentation"]
    return {**annotation, CLASS_NAME: name}


def _numbers(element: ElementTree.Element, names: Sequence[str], where: str) -> list[float]:
    values = []
    for name in names:
        text = element.findtext(name)
        if text is None:
            raise ValueError(f"The <{element.tag}> of the {where} has no <{name}>.")
        values.append(finite(text, f"<{name}> of the {where}"))
    return values


def _polygon(element: ElementTree.Element, where: str) -> list[float]:
    """Coordinates of <x1>, <y1>, <x2>, ..., as several exporters write them."""
    values: list[float] = []
    number = 1
    while element.find(f"x{number}") is not None:
        values += _numbers(element, (f"x{number}", f"y{number}"), where)
        number += 1
    if len(values) < 6:
        raise ValueError(f"A <polygon> of the {where} has fewer than three points.")
    return values
