"""Panoptic segmentation in COCO's format."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json, load_sem_seg
from detectron2.utils.file_io import PathManager

__all__ = [
    "load_coco_panoptic_json",
    "merge_to_panoptic",
    "register_coco_panoptic",
    "register_coco_panoptic_separated",
]

Record = dict[str, Any]


def load_coco_panoptic_json(
    json_file: str, image_dir: str, gt_dir: str, meta: dict[str, Any]
) -> list[Record]:
    """Records of a file in COCO's panoptic format.

    Args:
        json_file: the annotations.
        image_dir: folder of the images; they have the names of the label images and end in .jpg.
        gt_dir: folder of the PNG label images.
        meta: "thing_dataset_id_to_contiguous_id" and "stuff_dataset_id_to_contiguous_id".

    Returns:
        Records with "file_name", "image_id", "pan_seg_file_name" and "segments_info", whose
        entries have class numbers as "category_id" and "isthing".

    Raises:
        KeyError: a segment's category is neither a thing nor stuff.
        FileNotFoundError: the first image or label image does not exist.
    """
    with PathManager.open(json_file, "r", encoding="utf-8") as stream:
        content = json.load(stream)
    records = []
    for annotation in content["annotations"]:
        # The label image is called like the image, which the file lists apart.
        stem = os.path.splitext(annotation["file_name"])[0]
        records.append(
            {
                "file_name": os.path.join(image_dir, stem + ".jpg"),
                "image_id": int(annotation["image_id"]),
                "pan_seg_file_name": os.path.join(gt_dir, annotation["file_name"]),
                "segments_info": [
                    _convert_category_id(segment, meta, json_file)
                    for segment in annotation["segments_info"]
                ],
            }
        )
    if not records:
        raise ValueError(f"{json_file!r} has no annotations.")
    for key in ("file_name", "pan_seg_file_name"):
        if not PathManager.isfile(records[0][key]):
            raise FileNotFoundError(
                f"{records[0][key]!r} does not exist, which {json_file!r} refers to; check the "
                "folders that the dataset was registered with."
            )
    return records


def _convert_category_id(
    segment: dict[str, Any], meta: dict[str, Any], json_file: str
) -> dict[str, Any]:
    category = segment["category_id"]
    things = meta["thing_dataset_id_to_contiguous_id"]
    stuff = meta["stuff_dataset_id_to_contiguous_id"]
    if category in things:
        return {**segment, "category_id": things[category], "isthing": True}
    if category in stuff:
        return {**segment, "category_id": stuff[category], "isthing": False}
    raise KeyError(
        f"A segment in {json_file!r} has category_id {category}, which the dataset's metadata "
        "count neither among the things nor the stuff; add it there."
    )


def register_coco_panoptic(
    name: str,
    metadata: dict[str, Any],
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    instances_json: str | None = None,
) -> None:
    """Register a panoptic dataset in COCO's format.

    Records have "pan_seg_file_name" and "segments_info"; models that want instances and stuff
    apart take `register_coco_panoptic_separated`.

    Args:
        name: such as "coco_2017_train_panoptic".
        metadata: things and stuff: their class names and id maps.
        image_root: folder of the images.
        panoptic_root: folder of the label images.
        panoptic_json: the panoptic annotations.
        instances_json: the instance annotations of the same images, for evaluation.
    """
    DatasetCatalog.register(
        name,
        lambda: load_coco_panoptic_json(panoptic_json, image_root, panoptic_root, metadata),
    )
    MetadataCatalog.get(name).set(
        panoptic_root=panoptic_root,
        image_root=image_root,
        panoptic_json=panoptic_json,
        json_file=instances_json,
        evaluator_type="coco_panoptic_seg",
        ignore_label=255,
        label_divisor=1000,
        **metadata,
    )


def register_coco_panoptic_separated(
    name: str,
    metadata: dict[str, Any],
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    sem_seg_root: str,
    instances_json: str,
) -> None:
    """Register a panoptic dataset as instances and semantic segmentation: for Panoptic FPN.

    Two datasets are registered: `name` + "_separated" with "annotations" of the things and
    "sem_seg_file_name", in whose labels 0 stands for all things; and `name` + "_stuffonly" with
    the semantic segmentation alone.

    Args:
        name: prefix of the two names.
        metadata: things and stuff: their class names and id maps.
        image_root: folder of the images.
        panoptic_root: folder of the panoptic label images.
        panoptic_json: the panoptic annotations, for evaluation.
        sem_seg_root: folder of the semantic label images; `write_stuff_maps` makes them.
        instances_json: the instance annotations.
    """
    separated, stuff_only = name + "_separated", name + "_stuffonly"
    DatasetCatalog.register(
        separated,
        lambda: merge_to_panoptic(
            load_coco_json(instances_json, image_root, separated),
            load_sem_seg(sem_seg_root, image_root),
        ),
    )
    MetadataCatalog.get(separated).set(
        panoptic_root=panoptic_root,
        image_root=image_root,
        panoptic_json=panoptic_json,
        sem_seg_root=sem_seg_root,
        json_file=instances_json,
        evaluator_type="coco_panoptic_seg",
        ignore_label=255,
        **metadata,
    )
    DatasetCatalog.register(stuff_only, lambda: load_sem_seg(sem_seg_root, image_root))
    MetadataCatalog.get(stuff_only).set(
        sem_seg_root=sem_seg_root,
        image_root=image_root,
        evaluator_type="sem_seg",
        ignore_label=255,
        **metadata,
    )


def merge_to_panoptic(detection_dicts: list[Record], sem_seg_dicts: list[Record]) -> list[Record]:
    """Records of instances with the label maps of the same images added, matched by "file_name".

    Raises:
        ValueError: there are no label maps, or none for an image.
    """
    if not sem_seg_dicts:
        raise ValueError("There are no semantic segmentations to merge with the instances.")
    label_of = {record["file_name"]: record for record in sem_seg_dicts}
    merged = []
    for record in detection_dicts:
        if record["file_name"] not in label_of:
            raise ValueError(
                f"{record['file_name']!r} has instances but no semantic segmentation; make the "
                "label maps for all images, or remove it from the annotations."
            )
        merged.append({**copy.copy(record), **label_of[record["file_name"]]})
    return merged
