"""A dataset that is about to be written: records, names, images, and what gets lost."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.auto import RegisteredDataset
from detectron2.data.datasets.auto.images import image_size
from detectron2.structures import BoxMode

__all__ = [
    "Content",
    "ImageCopier",
    "is_rotated",
    "outlines",
    "plain",
    "read_content",
    "upright_box",
]

Record = dict[str, Any]


@dataclass
class Content:
    """What a writer gets.

    Attributes:
        splits: split to records; "height" and "width" are known.
        classes: names by class number.
        keypoints: names of keypoints; empty if there are none.
        flip: (K,) which keypoint takes the place of each in a mirror.
        losses: what the format cannot carry -> how often.
        remarks: sentences on how something is written.
    """

    splits: dict[str, list[Record]]
    classes: list[str]
    keypoints: list[str] = field(default_factory=list)
    flip: list[int] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def annotations(self) -> list[dict[str, Any]]:
        return [
            annotation
            for records in self.splits.values()
            for record in records
            for annotation in record["annotations"]
        ]


def read_content(dataset: RegisteredDataset) -> Content:
    """Read all splits of a dataset.

    Raises:
        ValueError: it has no annotations of objects, or no class names.
    """
    splits = {split: DatasetCatalog.get(name) for split, name in dataset.names.items()}
    metadata = MetadataCatalog.get(next(iter(dataset.names.values())))
    for split, records in splits.items():
        for record in records:
            if "annotations" not in record:
                raise ValueError(
                    f"{dataset.names[split]!r} has no annotations of objects, such as those of "
                    f"{record.get('file_name')!r}, so there is nothing to convert."
                )
            if "width" not in record or "height" not in record:
                record["width"], record["height"] = image_size(record["file_name"])
    classes = metadata.get("thing_classes")
    if classes is None:
        raise ValueError(f"The class names of {dataset.names} are not known.")
    names = list(metadata.get("keypoint_names", []))
    flip = list(range(len(names)))
    for left, right in metadata.get("keypoint_flip_map", []):
        i, j = names.index(left), names.index(right)
        flip[i], flip[j] = j, i
    return Content(splits=splits, classes=list(classes), keypoints=names, flip=flip)


class ImageCopier:
    """Puts the images of a split into a folder, each under a name of its own."""

    def __init__(self, how: str, keep_spaces: bool = True) -> None:
        """
        Args:
            how: "copy", "hardlink" or "symlink".
            keep_spaces: False replaces those in names by underscores.
        """
        self._keep_spaces = keep_spaces
        self._put = {"copy": shutil.copyfile, "hardlink": _hardlink, "symlink": _symlink}[how]
        self._taken: set[str] = set()

    def put(self, source: str, folder: Path) -> Path:
        """Returns the path below `folder`. No two of them differ only in their extension."""
        path = Path(source)
        name = path.stem if self._keep_spaces else "_".join(path.stem.split())
        stem, number = name, 1
        while stem.lower() in self._taken:
            number += 1
            stem = f"{name}_{number}"
        self._taken.add(stem.lower())
        target = folder / (stem + path.suffix)
        folder.mkdir(parents=True, exist_ok=True)
        self._put(source, target)
        return target


def _hardlink(source: str, target: Path) -> None:
    os.link(os.path.realpath(source), target)


def _symlink(source: str, target: Path) -> None:
    os.symlink(os.path.realpath(source), target)


def is_rotated(annotation: dict[str, Any]) -> bool:
    return annotation["bbox_mode"] == BoxMode.XYWHA_ABS


def upright_box(annotation: dict[str, Any]) -> list[float]:
    """x0, y0, x1, y1; around a rotated box."""
    box = np.array(annotation["bbox"], dtype=np.float64)
    converted = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return np.asarray(converted).tolist()


def outlines(annotation: dict[str, Any], losses: Counter[str]) -> list[list[float]]:
    """Polygons of an annotation's segmentation; run lengths are traced, which is a loss."""
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        return []
    if isinstance(segmentation, list):
        return [np.asarray(polygon).reshape(-1).tolist() for polygon in segmentation]
    from detectron2.data._annotations import decode_rle
    from detectron2.utils.drawing.contours import trace

    contours = trace(decode_rle(segmentation) != 0)
    losses["masks become polygons that follow them to about a pixel"] += 1
    if any(contour.is_hole for contour in contours):
        losses["masks have holes, which are filled"] += 1
    return [
        (contour.points + 0.5).reshape(-1).tolist()
        for contour in contours
        if not contour.is_hole and len(contour.points) >= 3
    ]


def plain(value: float) -> str:
    """A number to nine digits behind the point, without trailing zeros."""
    text = f"{value:.9f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
