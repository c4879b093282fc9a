"""Panoptic segmentation of Cityscapes."""

from __future__ import annotations

import functools
import json
import os
from typing import Any

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets._root import under
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.utils.file_io import PathManager

__all__ = [
    "get_cityscapes_panoptic_files",
    "load_cityscapes_panoptic",
    "register_all_cityscapes_panoptic",
]

_SUFFIX = "_leftImg8bit.png"

# name -> (images, panoptic label images, panoptic JSON), below the root of datasets.
_RAW_CITYSCAPES_PANOPTIC_SPLITS = {
    "cityscapes_fine_panoptic_train": (
        "cityscapes/leftImg8bit/train",
        "cityscapes/gtFine/cityscapes_panoptic_train",
        "cityscapes/gtFine/cityscapes_panoptic_train.json",
    ),
    "cityscapes_fine_panoptic_val": (
        "cityscapes/leftImg8bit/val",
        "cityscapes/gtFine/cityscapes_panoptic_val",
        "cityscapes/gtFine/cityscapes_panoptic_val.json",
    ),
}


def get_cityscapes_panoptic_files(
    image_dir: str, gt_dir: str, json_info: dict[str, Any]
) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """(image, label image, segments) of each annotation.

    Args:
        image_dir: such as "leftImg8bit/train", one folder per city below it.
        gt_dir: folder of the panoptic label images.
        json_info: content of the panoptic JSON file.

    Raises:
        FileNotFoundError: an annotation's image does not exist, or the first label image.
    """
    image_of = {}
    for city in PathManager.ls(image_dir):
        folder = os.path.join(image_dir, city)
        for name in PathManager.ls(folder):
            if name.endswith(_SUFFIX):
                image_of[name[: -len(_SUFFIX)]] = os.path.join(folder, name)
    files = []
    for annotation in json_info["annotations"]:
        image_file = image_of.get(annotation["image_id"])
        if image_file is None:
            raise FileNotFoundError(
                f"There is no image {annotation['image_id'] + _SUFFIX!r} below {image_dir!r}, "
                "which the panoptic annotations refer to."
            )
        label_file = os.path.join(gt_dir, annotation["file_name"])
        files.append((image_file, label_file, annotation["segments_info"]))
    if not files:
        raise FileNotFoundError(f"There are no annotations for the images in {image_dir!r}.")
    for file in files[0][:2]:
        if not PathManager.isfile(file):
            raise FileNotFoundError(f"{file!r} does not exist; check the folders of the dataset.")
    return files


def load_cityscapes_panoptic(
    image_dir: str, gt_dir: str, gt_json: str, meta: dict[str, Any]
) -> list[dict[str, Any]]:
    """Records of the panoptic annotations.

    Args:
        image_dir: such as "leftImg8bit/train".
        gt_dir: folder of the panoptic label images.
        gt_json: such as "gtFine/cityscapes_panoptic_train.json".
        meta: "thing_dataset_id_to_contiguous_id" and "stuff_dataset_id_to_contiguous_id".

    Returns:
        Records with "pan_seg_file_name", "sem_seg_file_name" and "segments_info".

    Raises:
        FileNotFoundError: a file does not exist; the message says how to make it.
        KeyError: a segment's category is neither a thing nor stuff.
    """
    if not PathManager.isfile(gt_json):
        raise FileNotFoundError(
            f"{gt_json!r} does not exist; make it with "
            "cityscapesscripts/preparation/createPanopticImgs.py."
        )
    with PathManager.open(gt_json, "r") as stream:
        content = json.load(stream)
    numbers = {
        **meta["stuff_dataset_id_to_contiguous_id"],
        **meta["thing_dataset_id_to_contiguous_id"],
    }
    records = []
    for image_file, label_file, segments in get_cityscapes_panoptic_files(
        image_dir, gt_dir, content
    ):
        name = os.path.basename(image_file)
        folder = os.path.dirname(image_file).replace("leftImg8bit", "gtFine")
        records.append(
            {
                "file_name": image_file,
                "image_id": "_".join(os.path.splitext(name)[0].split("_")[:3]),
                "sem_seg_file_name": os.path.join(
                    folder, name[: -len(_SUFFIX)] + "_gtFine_labelTrainIds.png"
                ),
                "pan_seg_file_name": label_file,
                "segments_info": [
                    {**segment, "category_id": _number(segment, numbers, gt_json)}
                    for segment in segments
                ],
            }
        )
    if not PathManager.isfile(records[0]["sem_seg_file_name"]):
        raise FileNotFoundError(
            f"{records[0]['sem_seg_file_name']!r} does not exist; make the label maps with "
            "cityscapesscripts/preparation/createTrainIdLabelImgs.py."
        )
    return records


def _number(segment: dict[str, Any], numbers: dict[int, int], gt_json: str) -> int:
    if segment["category_id"] not in numbers:
        raise KeyError(
            f"A segment in {gt_json!r} has category_id {segment['category_id']}, which the "
            "metadata count neither among the things nor the stuff; make the file with "
            "createPanopticImgs.py --use-train-id left out."
        )
    return numbers[segment["category_id"]]


def register_all_cityscapes_panoptic(root: str | None = None) -> None:
    """Register the panoptic datasets of Cityscapes.

    Args:
        root: folder that holds "cityscapes"; None means ``DETECTRON2_DATASETS`` when used.
    """
    for name, paths in _RAW_CITYSCAPES_PANOPTIC_SPLITS.items():
        DatasetCatalog.register(name, functools.partial(_load, root, paths))
        MetadataCatalog.defer(name, functools.partial(_metadata, root, paths))


def _load(root: str | None, paths: tuple[str, str, str]) -> list[dict[str, Any]]:
    meta = _get_builtin_metadata("cityscapes_panoptic")
    return load_cityscapes_panoptic(*(under(root, path) for path in paths), meta)


def _metadata(root: str | None, paths: tuple[str, str, str]) -> dict[str, Any]:
    image_dir, gt_dir, gt_json = (under(root, path) for path in paths)
    return {
        "panoptic_root": gt_dir,
        "image_root": image_dir,
        "panoptic_json": gt_json,
        "gt_dir": gt_dir.replace("cityscapes_panoptic_", ""),
        "evaluator_type": "cityscapes_panoptic_seg",
        "ignore_label": 255,
        "label_divisor": 1000,
        **_get_builtin_metadata("cityscapes_panoptic"),
    }
