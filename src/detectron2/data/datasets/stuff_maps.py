"""Label maps of semantic segmentation from panoptic annotations, as Panoptic FPN is trained on."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_open

__all__ = ["THINGS", "UNLABELLED", "segment_ids", "write_stuff_maps"]

logger = logging.getLogger(__name__)

THINGS = 0
UNLABELLED = 255


def write_stuff_maps(
    panoptic_json: str,
    panoptic_root: str,
    sem_seg_root: str,
    label_of: Mapping[int, int] | None = None,
) -> list[str]:
    """Write a PNG file of labels for each image of a file in COCO's panoptic format.

    The folder is what `register_coco_panoptic_separated` takes as `sem_seg_root`, and what the
    builtin "coco_2017_train_panoptic_separated" expects in ``coco/panoptic_stuff_train2017``.

    Args:
        panoptic_json: the annotations.
        panoptic_root: folder of the PNG files that draw the segments.
        sem_seg_root: folder to write to. A file appears when it is complete.
        label_of: category id of stuff -> label; None numbers the stuff from 1, in the order of
            the ids, as the metadata of COCO do.

    Returns:
        Names of the labels 0, 1, ...: "things" stands for every thing. Pixels of no segment are
        255.

    Raises:
        ValueError: a segment is of a category that is not listed, or has no label; or a drawing
            cannot be read.
    """
    with PathManager.open(panoptic_json, "r", encoding="utf-8") as stream:
        content = json.load(stream)
    names = {c["id"]: c["name"] for c in content["categories"] if not c.get("isthing", 1)}
    if label_of is None:
        label_of = {category: label for label, category in enumerate(sorted(names), start=1)}
    labels = {c["id"]: THINGS for c in content["categories"] if c.get("isthing", 1)} | {**label_of}
    os.makedirs(sem_seg_root, exist_ok=True)

    def write(annotation: Mapping[str, Any]) -> None:
        name = annotation["file_name"]
        colours = _label_of_colours(annotation["segments_info"], labels, panoptic_json, name)
        drawn = _labels(segment_ids(os.path.join(panoptic_root, name)), colours)
        stem = os.path.splitext(name)[0]
        with atomic_open(os.path.join(sem_seg_root, stem + ".png"), "wb") as stream:
            Image.fromarray(drawn).save(stream, "png")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = sum(1 for _ in pool.map(write, content["annotations"]))
    logger.info("Wrote %d label maps to %s.", done, sem_seg_root)
    found = {label: names[category] for category, label in label_of.items() if category in names}
    return ["things", *(found.get(label, "") for label in range(1, max(found, default=0) + 1))]


def segment_ids(drawing: str) -> np.ndarray:
    """(H, W) int64 ids that a PNG file of COCO's panoptic format draws.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        colours = read_image(drawing, "RGB").astype(np.int64)
    except OSError as e:
        raise ValueError(f"A drawing of segments cannot be read: {e}") from e
    return colours @ np.array([1, 256, 256**2])


def _label_of_colours(
    segments: Iterable[Mapping[str, Any]], labels: Mapping[int, int], file: str, name: str
) -> dict[int, int]:
    """Label of each segment id of an image."""
    found = {}
    for segment in segments:
        category = segment["category_id"]
        if category not in labels:
            raise ValueError(
                f"A segment of {name!r} in {file!r} has category_id {category}, which has no "
                "label: it is not among the categories of the file, or not in label_of."
            )
        found[segment["id"]] = labels[category]
    return found


def _labels(ids: np.ndarray, label_of: Mapping[int, int]) -> np.ndarray:
    """(H, W) uint8 labels of (H, W) segment ids; those of no segment are `UNLABELLED`."""
    unique, place = np.unique(ids, return_inverse=True)
    labels = np.array([label_of.get(number, UNLABELLED) for number in unique.tolist()], np.uint8)
    return labels[place].reshape(ids.shape)
