"""LVIS: instance segmentation with a long tail of categories."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.data._read_once import parsed
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import _get_coco_instances_meta
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["get_lvis_instances_meta", "load_lvis_json", "register_lvis_instances"]

logger = logging.getLogger(__name__)


def register_lvis_instances(
    name: str, metadata: dict[str, Any], json_file: str, image_root: str
) -> None:
    """Register a dataset in LVIS's JSON format.

    Args:
        name: such as "lvis_v1_train".
        metadata: entries of the dataset's metadata; {} for none.
        json_file: the annotations, read when the dataset is first used.
        image_root: folder of the images.
    """
    DatasetCatalog.register(name, lambda: load_lvis_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="lvis", **metadata
    )


def load_lvis_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Records of a file in LVIS's format.

    Args:
        json_file: the annotations.
        image_root: folder of the images. Images with a "coco_url" lie in "train2017" or
            "val2017" below it; put a slash at its end then.
        dataset_name: if its metadata have "thing_dataset_id_to_contiguous_id", that gives the
            class numbers. Otherwise they are the ids in the file, which begin at 1, less 1.
        extra_annotation_keys: entries of annotations to keep besides box, class and polygons.

    Returns:
        Records by image id, with "neg_category_ids" and "not_exhaustive_category_ids", which
        hold ids as in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ids repeat, an annotation is of no image of the file, or a segmentation is
            empty or no list of polygons.
    """
    try:
        content = parsed(json_file, lambda: _parse(json_file))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The annotation file {json_file!r} does not exist. For the builtin LVIS datasets set "
            "DETECTRON2_DATASETS to the folder that holds it."
        ) from None
    contiguous = None
    if dataset_name is not None:
        contiguous = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
    images = sorted(content["images"], key=lambda image: image["id"])
    annotations_of = _annotations_by_image(content, json_file)
    logger.info("Loaded %d images in LVIS format from %s", len(images), json_file)
    keys = list(extra_annotation_keys or [])
    return [
        {
            "file_name": _file_name(image, image_root),
            "height": image["height"],
            "width": image["width"],
            "not_exhaustive_category_ids": image.get("not_exhaustive_category_ids", []),
            "neg_category_ids": image.get("neg_category_ids", []),
            "image_id": image["id"],
            "annotations": [
                _annotation(annotation, contiguous, keys, json_file)
                for annotation in annotations_of[image["id"]]
            ],
        }
        for image in images
    ]


def _annotations_by_image(
    content: dict[str, Any], json_file: str
) -> dict[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    ids = set()
    for annotation in content.get("annotations", []):
        number, image = annotation["id"], annotation["image_id"]
        if number in ids:
            raise ValueError(f"The annotation id {number} repeats in {json_file!r}.")
        if image not in by_image:
            raise ValueError(
                f"Annotation {number} in {json_file!r} belongs to image {image}, which is not "
                "among the file's images."
            )
        ids.add(number)
        by_image[image].append(annotation)
    return by_image


def _parse(json_file: str) -> Any:
    with PathManager.open(json_file, "r", encoding="utf-8") as stream:
        return json.load(stream)


def _file_name(image: dict[str, Any], image_root: str) -> str:
    if "coco_url" in image:
        # LVIS splits COCO's images anew: "train2017/000000155379.jpg" may be in its val set.
        folder, name = image["coco_url"].split("/")[-2:]
        return os.path.join(image_root + folder, name)
    name = image["file_name"]
    if name.startswith("COCO"):
        # v0.5 has COCO 2014's names for COCO 2017's files: COCO_val2014_000000001268.jpg.
        name = name[-16:]
    return os.path.join(image_root, name)


def _annotation(
    annotation: dict[str, Any],
    contiguous: dict[int, int] | None,
    extra_keys: Sequence[str],
    json_file: str,
) -> dict[str, Any]:
    category = annotation["category_id"]
    polygons = annotation["segmentation"]
    usable = []
    if isinstance(polygons, list):
        usable = [p for p in polygons if len(p) % 2 == 0 and len(p) >= 6]
    if not usable or len(usable) != len(polygons):
        raise ValueError(
            f"Annotation {annotation['id']} in {json_file!r} has a segmentation that is no list "
            "of polygons of three or more points."
        )
    return {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category - 1 if contiguous is None else contiguous[category],
        "segmentation": usable,
        **{key: annotation[key] for key in extra_keys},
    }


def get_lvis_instances_meta(dataset_name: str) -> dict[str, Any]:
    """Metadata of an LVIS dataset by its name.

    Returns:
        "thing_classes", the first synonym of each category; for v1 also "class_image_count",
        with "id" (from 1 on) and "image_count" of the training set; for "cocofied" names COCO's.

    Raises:
        ValueError: the version is unknown.
    """
    if "cocofied" in dataset_name:
        return _get_coco_instances_meta()
    if "v0.5" in dataset_name:
        from detectron2.data.datasets.lvis_v0_5_categories import LVIS_CATEGORIES

        return {"thing_classes": _class_names(LVIS_CATEGORIES)}
    if "v1" in dataset_name:
        from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
        from detectron2.data.datasets.lvis_v1_category_image_count import (
            LVIS_CATEGORY_IMAGE_COUNT,
        )

        return {
            "thing_classes": _class_names(LVIS_CATEGORIES),
            "class_image_count": LVIS_CATEGORY_IMAGE_COUNT,
        }
    raise ValueError(
        f"{dataset_name!r} names no version of LVIS; it must contain 'v0.5', 'v1' or 'cocofied'."
    )


def _class_names(categories: Sequence[dict[str, Any]]) -> list[str]:
    return [category["synonyms"][0] for category in sorted(categories, key=lambda c: c["id"])]
