"""Datasets in the format of PASCAL VOC."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["CLASS_NAMES", "load_voc_instances", "register_pascal_voc"]

CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


def load_voc_instances(
    dirname: str, split: str, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Records of a folder with "Annotations", "ImageSets" and "JPEGImages".

    Args:
        dirname: that folder.
        split: a list in ImageSets/Main: "train", "val", "trainval" or "test".
        class_names: in the order of class numbers.

    Returns:
        One record per image in the order of the list; "image_id" is the name of its file without
        extension. Objects that are marked difficult or truncated are included.

    Raises:
        FileNotFoundError: the list does not exist.
        ValueError: an object has another class, or an annotation cannot be parsed.
    """
    list_file = os.path.join(dirname, "ImageSets", "Main", split + ".txt")
    try:
        with PathManager.open(list_file) as stream:
            image_ids = [line.split()[0] for line in stream if line.strip()]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The image list {list_file!r} does not exist; the folder of a VOC dataset holds "
            "Annotations, ImageSets/Main and JPEGImages."
        ) from None
    # Many small files: fetched once where the folder is remote.
    annotation_dir = PathManager.get_local_path(os.path.join(dirname, "Annotations/"))
    class_of = {name: number for number, name in enumerate(class_names)}
    return [_load_image(dirname, annotation_dir, image_id, class_of) for image_id in image_ids]


def _load_image(
    dirname: str, annotation_dir: str, image_id: str, class_of: dict[str, int]
) -> dict[str, Any]:
    xml_file = os.path.join(annotation_dir, image_id + ".xml")
    try:
        with PathManager.open(xml_file) as stream:
            root = ElementTree.parse(stream).getroot()
        annotations = [_object(element, class_of) for element in root.iter("object")]
        return {
            "file_name": os.path.join(dirname, "JPEGImages", image_id + ".jpg"),
            "image_id": image_id,
            "height": int(root.findtext("./size/height") or ""),
            "width": int(root.findtext("./size/width") or ""),
            "annotations": annotations,
        }
    except (ElementTree.ParseError, ValueError) as e:
        raise ValueError(f"{xml_file!r} cannot be read as a VOC annotation: {e}.") from e


def _object(element: ElementTree.Element, class_of: dict[str, int]) -> dict[str, Any]:
    name = element.findtext("name") or ""
    if name not in class_of:
        raise ValueError(f"an object has class {name!r}, which is not in {list(class_of)}")
    corners = {
        side: element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
    }
    missing = [side for side, text in corners.items() if text is None]
    if missing:
        raise ValueError(f"an object of class {name!r} has no {', '.join(missing)}")
    x0, y0, x1, y1 = (float(text) for text in corners.values() if text is not None)
    return {
        "category_id": class_of[name],
        # VOC counts pixels from 1 and includes the last: 1..n covers the coordinates 0 to n.
        "bbox": [x0 - 1.0, y0 - 1.0, x1, y1],
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def register_pascal_voc(
    name: str,
    dirname: str,
    split: str,
    year: int,
    class_names: Sequence[str] = CLASS_NAMES,
) -> None:
    """Register a dataset in the format of PASCAL VOC.

    Args:
        name: such as "voc_2007_trainval".
        dirname: see `load_voc_instances`.
        split: see `load_voc_instances`.
        year: 2007 or 2012; the metric differs.
        class_names: in the order of class numbers.
    """
    DatasetCatalog.register(name, lambda: load_voc_instances(dirname, split, class_names))
    MetadataCatalog.get(name).set(
        thing_classes=list(class_names), dirname=dirname, year=year, split=split
    )
