"""Writing Pascal VOC: Annotations, ImageSets/Main, JPEGImages, and the classes in labels.txt."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from detectron2.data.datasets.convert.content import (
    Content,
    ImageCopier,
    Record,
    is_rotated,
    outlines,
    plain,
    upright_box,
)

__all__ = ["write"]


def write(content: Content, folder: Path, images: str) -> None:
    """Write a dataset into an empty folder."""
    lists, labels = folder / "ImageSets" / "Main", folder / "Annotations"
    lists.mkdir(parents=True)
    labels.mkdir()
    # The names of all splits share one folder, and readers end a name in a list at a space.
    copier = ImageCopier(images, keep_spaces=False)
    with_outlines = with_rotation = False
    for split, records in content.splits.items():
        stems = []
        for record in records:
            image = copier.put(record["file_name"], folder / "JPEGImages")
            tree = _tree(record, image.name, content)
            with_outlines |= tree.find("object/polygon") is not None
            with_rotation |= tree.find("object/robndbox") is not None
            ElementTree.indent(tree)
            text = ElementTree.tostring(tree, encoding="unicode")
            (labels / f"{image.stem}.xml").write_text(text + "\n", encoding="utf-8")
            stems.append(image.stem)
        list_text = "".join(f"{stem}\n" for stem in stems)
        (lists / f"{split}.txt").write_text(list_text, encoding="utf-8")
    class_text = "".join(f"{name}\n" for name in content.classes)
    (folder / "labels.txt").write_text(class_text, encoding="utf-8")
    for present, element in ((with_outlines, "polygon"), (with_rotation, "robndbox")):
        if present:
            content.remarks.append(
                f"<{element}> stands beside <bndbox>; readers that do not know it see the box."
            )


def _tree(record: Record, file_name: str, content: Content) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = file_name
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", record["width"]), ("height", record["height"]), ("depth", 3)):
        ElementTree.SubElement(size, name).text = str(value)
    for annotation in record["annotations"]:
        if annotation.get("iscrowd", 0):
            content.losses["crowd regions are left out: VOC has no such mark"] += 1
            continue
        if annotation.get("keypoints") is not None:
            content.losses["objects lose their keypoints, which VOC has no place for"] += 1
        root.append(_object(annotation, content))
    return root


def _object(annotation: dict[str, Any], content: Content) -> ElementTree.Element:
    element = ElementTree.Element("object")
    ElementTree.SubElement(element, "name").text = content.classes[annotation["category_id"]]
    for name in ("truncated", "difficult"):
        ElementTree.SubElement(element, name).text = "0"
    x0, y0, x1, y1 = upright_box(annotation)
    # VOC counts pixels from 1 and includes the last.
    _numbers(element, "bndbox", {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1})
    if is_rotated(annotation):
        cx, cy, w, h, degrees = annotation["bbox"]
        turned = {"cx": cx, "cy": cy, "w": w, "h": h, "angle": -math.radians(degrees)}
        _numbers(element, "robndbox", turned)
    for polygon in outlines(annotation, content.losses):
        points = {}
        for number, (x, y) in enumerate(zip(polygon[0::2], polygon[1::2]), 1):
            points[f"x{number}"], points[f"y{number}"] = x, y
        _numbers(element, "polygon", points)
    return element


def _numbers(parent: ElementTree.Element, name: str, values: dict[str, float]) -> None:
    element = ElementTree.SubElement(parent, name)
    for key, value in values.items():
        ElementTree.SubElement(element, key).text = plain(value)
