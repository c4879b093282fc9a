"""Cityscapes: instances and semantic segmentation from the files of the dataset."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.structures import BoxMode
from detectron2.utils.comm import get_world_size
from detectron2.utils.drawing.contours import trace
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

__all__ = ["load_cityscapes_instances", "load_cityscapes_semantic", "main"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]

# Name and id in the files -> class number, of the classes that are evaluated by instance.
_THINGS = [category for category in CITYSCAPES_CATEGORIES if category["isthing"]]
_CLASS_OF_NAME = {category["name"]: number for number, category in enumerate(_THINGS)}
_CLASS_OF_ID = {category["id"]: number for number, category in enumerate(_THINGS)}

# In instance maps a pixel is 1000 * id + number of the instance; without instances, the id.
_INSTANCE_FACTOR = 1000


def load_cityscapes_instances(
    image_dir: str, gt_dir: str, from_json: bool = True, to_polygons: bool = True
) -> list[Record]:
    """Records with instances of the eight classes that Cityscapes evaluates by instance.

    Args:
        image_dir: such as "leftImg8bit/train", one folder per city below it.
        gt_dir: such as "gtFine/train".
        from_json: read the polygons of the annotators, of which only what no later polygon hides
            counts; otherwise the instance maps, which hold the same as pixels.
        to_polygons: with instance maps: polygons around the pixels, otherwise run lengths.
            Holes are filled by polygons.

    Returns:
        Records with class numbers 0 to 7; groups ("persongroup") are crowds.

    Raises:
        FileNotFoundError: there are no images, or a file is missing.
        ValueError: `from_json` without `to_polygons`.
    """
    if from_json and not to_polygons:
        raise ValueError("The JSON files hold polygons; use from_json=False for run lengths.")
    files = get_cityscapes_files(image_dir, gt_dir)
    logger.info("Preprocessing cityscapes annotations ...")
    read: Callable[[tuple[str, ...]], Record]
    if from_json:
        read = _instances_from_json
    else:
        read = functools.partial(_instances_from_map, to_polygons=to_polygons)
    # Every process of a distributed program does this at the same time.
    workers = max((os.cpu_count() or 1) // get_world_size() // 2, 1)
    if workers == 1 or len(files) < 50:
        records = [read(file) for file in files]
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            records = pool.map(read, files, chunksize=8)
    logger.info("Loaded %d images from %s", len(records), image_dir)
    return records


def load_cityscapes_semantic(image_dir: str, gt_dir: str) -> list[Record]:
    """Records with "sem_seg_file_name": label maps of the 19 evaluated classes.

    Args:
        image_dir: such as "leftImg8bit/train".
        gt_dir: such as "gtFine/train".

    Raises:
        FileNotFoundError: there are no images, or the label maps were not made.
    """
    records = []
    for image_file, _, label_file, json_file in get_cityscapes_files(image_dir, gt_dir):
        label_file = label_file.replace("labelIds", "labelTrainIds")
        with PathManager.open(json_file, "r") as stream:
            content = json.load(stream)
        records.append(
            {
                "file_name": image_file,
                "sem_seg_file_name": label_file,
                "height": content["imgHeight"],
                "width": content["imgWidth"],
            }
        )
    if not PathManager.isfile(records[0]["sem_seg_file_name"]):
        raise FileNotFoundError(
            f"{records[0]['sem_seg_file_name']!r} does not exist; make the label maps with "
            "cityscapesscripts/preparation/createTrainIdLabelImgs.py."
        )
    return records


def get_cityscapes_files(image_dir: str, gt_dir: str) -> list[tuple[str, str, str, str]]:
    """(image, instance map, label map, JSON file) of each image, city by city.

    Raises:
        FileNotFoundError: there are no images, or the first one's annotations are missing.
    """
    suffix = "leftImg8bit.png"
    files = []
    for city in sorted(PathManager.ls(image_dir)) if PathManager.isdir(image_dir) else []:
        city_images = os.path.join(image_dir, city)
        city_labels = os.path.join(gt_dir, city)
        for name in sorted(PathManager.ls(city_images)):
            if not name.endswith(suffix):
                continue
            stem = os.path.join(city_labels, name[: -len(suffix)])
            files.append(
                (
                    os.path.join(city_images, name),
                    stem + "gtFine_instanceIds.png",
                    stem + "gtFine_labelIds.png",
                    stem + "gtFine_polygons.json",
                )
            )
    if not files:
        raise FileNotFoundError(
            f"There are no images *_{suffix} in the folders of {image_dir!r}; set "
            "DETECTRON2_DATASETS to the folder that holds 'cityscapes'."
        )
    for file in files[0]:
        if not PathManager.isfile(file):
            raise FileNotFoundError(f"{file!r} does not exist; unpack gtFine beside leftImg8bit.")
    return files


def _instances_from_json(files: tuple[str, ...]) -> Record:
    image_file, _, _, json_file = files
    with PathManager.open(json_file, "r") as stream:
        content = json.load(stream)
    height, width = content["imgHeight"], content["imgWidth"]
    # Objects are listed from far to near, so each hides what comes before it.
    # Negative ids such as the licence plate's are no objects of their own.
    objects = [
        o for o in content["objects"] if "deleted" not in o and o["label"] != "license plate"
    ]
    canvas = Image.new("I", (width, height), 0)
    painter = ImageDraw.Draw(canvas)
    for number, shape in enumerate(objects, start=1):
        _paint(painter, shape["polygon"], number)
    painted = np.asarray(canvas)
    annotations = []
    for number, shape in enumerate(objects, start=1):
        label, crowd = shape["label"], False
        if label not in _CLASS_OF_NAME and label.endswith("group"):
            label, crowd = label[: -len("group")], True
        if label not in _CLASS_OF_NAME:
            continue
        polygons = _visible_polygons(shape["polygon"], painted, number)
        if polygons:
            annotations.append(_polygon_annotation(_CLASS_OF_NAME[label], crowd, polygons))
    return _record(image_file, height, width, annotations)


def _paint(painter: ImageDraw.ImageDraw, polygon: list[list[float]], value: int) -> None:
    if len(polygon) >= 3:
        painter.polygon([(float(x), float(y)) for x, y in polygon], fill=value)


def _visible_polygons(
    polygon: list[list[float]], painted: np.ndarray, number: int
) -> list[list[float]]:
    """The polygon itself if nothing hides it, else polygons around the pixels that are seen."""
    height, width = painted.shape
    corners = np.asarray(polygon, dtype=np.float64)
    x0, y0 = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, (width, height))
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, (width, height))
    if len(polygon) < 3 or x0 >= x1 or y0 >= y1:
        return []
    seen = painted[y0:y1, x0:x1] == number
    whole = Image.new("L", (int(x1 - x0), int(y1 - y0)), 0)
    _paint(ImageDraw.Draw(whole), (corners - (x0, y0)).tolist(), 1)
    if seen.sum() == np.asarray(whole).sum():
        return [corners.reshape(-1).tolist()]
    return _outlines(seen, offset=(int(x0), int(y0)))


def _outlines(mask: np.ndarray, offset: tuple[int, int] = (0, 0)) -> list[list[float]]:
    """Polygons through the centres of the border pixels of each region of a mask."""
    return [
        (contour.points + np.array(offset) + 0.5).reshape(-1).tolist()
        for contour in trace(mask)
        if not contour.is_hole and len(contour.points) >= 3
    ]


def _polygon_annotation(
    class_number: int, crowd: bool, polygons: list[list[float]]
) -> dict[str, Any]:
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    return {
        "iscrowd": int(crowd),
        "category_id": class_number,
        "segmentation": polygons,
        "bbox": (float(x0), float(y0), float(x1), float(y1)),
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def _instances_from_map(files: tuple[str, ...], to_polygons: bool) -> Record:
    image_file, map_file, _, _ = files
    with PathManager.open(map_file, "rb") as stream:
        instance_map = np.asarray(Image.open(stream), dtype=np.int32)
    height, width = instance_map.shape
    annotations = []
    for value in np.unique(instance_map).tolist():
        crowd = value < _INSTANCE_FACTOR
        class_id = value if crowd else value // _INSTANCE_FACTOR
        if class_id not in _CLASS_OF_ID:
            continue
        mask = instance_map == value
        number = _CLASS_OF_ID[class_id]
        if to_polygons:
            polygons = _outlines(mask)
            if polygons:
                annotations.append(_polygon_annotation(number, crowd, polygons))
        else:
            annotations.append(_mask_annotation(number, crowd, mask))
    return _record(image_file, height, width, annotations)


def _mask_annotation(class_number: int, crowd: bool, mask: np.ndarray) -> dict[str, Any]:
    import hotcoco.mask

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return {
        "iscrowd": int(crowd),
        "category_id": class_number,
        "segmentation": hotcoco.mask.encode(np.asfortranarray(mask)),
        "bbox": (
            float(columns[0]),
            float(rows[0]),
            float(columns[-1] + 1),
            float(rows[-1] + 1),
        ),
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def _record(image_file: str, height: int, width: int, annotations: list[dict[str, Any]]) -> Record:
    return {
        "file_name": image_file,
        "image_id": os.path.basename(image_file),
        "height": height,
        "width": width,
        "annotations": annotations,
    }


def main(arguments: list[str] | None = None) -> None:
    """Log what a folder of Cityscapes holds: ``python -m detectron2.data.datasets.cityscapes``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("image_dir", help="such as cityscapes/leftImg8bit/val")
    parser.add_argument("gt_dir", help="such as cityscapes/gtFine/val")
    parser.add_argument("--type", choices=["instance", "semantic"], default="instance")
    options = parser.parse_args(arguments)
    log = setup_logger(name=__name__)
    if options.type == "semantic":
        records = load_cityscapes_semantic(options.image_dir, options.gt_dir)
        log.info("%d images with label maps.", len(records))
        return
    records = load_cityscapes_instances(options.image_dir, options.gt_dir)
    counts = [0] * len(_THINGS)
    for record in records:
        for annotation in record["annotations"]:
            counts[annotation["category_id"]] += 1
    for category, count in zip(_THINGS, counts):
        log.info("%s: %d instances", category["name"], count)


if __name__ == "__main__":
    main()
