"""From the entries of a COCO file to those of records."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from detectron2.data.catalog import MetadataCatalog
from detectron2.structures import BoxMode

__all__ = ["AnnotationReader", "category_ids", "compressed", "group_by_image"]

# Messages are known under the public name.
logger = logging.getLogger("detectron2.data.datasets.coco")


def category_ids(
    content: dict[str, Any], json_file: str, dataset_name: str | None
) -> dict[int, int] | None:
    """Category id in the file -> class number; registers the classes."""
    if dataset_name is None:
        return None
    categories = sorted(content.get("categories", []), key=lambda c: c["id"])
    ids = [category["id"] for category in categories]
    repeated = [i for i, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"Category ids repeat in {json_file!r}: {repeated[:5]}.")
    metadata = MetadataCatalog.get(dataset_name)
    metadata.thing_classes = [category["name"] for category in categories]
    if ids and ids != list(range(1, len(ids) + 1)) and "coco" not in dataset_name:
        logger.warning(
            "Category ids of %s are not 1, 2, ..., %d; they become 0 to %d in the order of their "
            "ids (see thing_dataset_id_to_contiguous_id).",
            json_file,
            len(ids),
            len(ids) - 1,
        )
    id_map = {category_id: i for i, category_id in enumerate(ids)}
    metadata.thing_dataset_id_to_contiguous_id = id_map
    return id_map


def group_by_image(
    annotations: Sequence[dict[str, Any]], images: Sequence[dict[str, Any]], json_file: str
) -> dict[Any, list[dict[str, Any]]]:
    """Annotations by image id, in the order of the file.

    Raises:
        AssertionError: ids repeat; evaluation would silently count one annotation for another.
    """
    known = {image["id"] for image in images}
    if len(known) != len(images):
        repeated = [i for i, n in Counter(image["id"] for image in images).items() if n > 1]
        raise AssertionError(f"Image ids repeat in {json_file!r}: {repeated[:5]}.")
    # The 2014 "valminusminival" split, which many projects use, is known to repeat ids.
    if "minival" not in os.path.basename(json_file):
        ids = [annotation["id"] for annotation in annotations if "id" in annotation]
        if len(set(ids)) != len(ids):
            repeated = [i for i, n in Counter(ids).items() if n > 1]
            raise AssertionError(
                f"Annotation ids repeat in {json_file!r}: {repeated[:5]}; number them 1, 2, ..."
            )
    grouped: dict[Any, list[dict[str, Any]]] = {}
    strays = 0
    for annotation in annotations:
        if annotation["image_id"] in known:
            grouped.setdefault(annotation["image_id"], []).append(annotation)
        else:
            strays += 1
    if strays:
        logger.warning(
            "%d annotations of %s belong to images that the file does not list; ignored.",
            strays,
            json_file,
        )
    return grouped


class AnnotationReader:
    """Turns annotations of a COCO file into those of records, and counts what it leaves out."""

    def __init__(self, json_file: str, keys: Sequence[str], id_map: dict[int, int] | None) -> None:
        self.json_file = json_file
        self.keys = keys
        self.id_map = id_map
        self.without_area = 0

    def read(self, annotation: dict[str, Any]) -> dict[str, Any] | None:
        """None if no part of the segmentation covers anything."""
        if annotation.get("ignore", 0) != 0:
            raise ValueError(
                f"Annotation {annotation.get('id')} of {self.json_file!r} has 'ignore' set, which "
                "COCO's format does not know; use 'iscrowd'."
            )
        result = {key: annotation[key] for key in self.keys if key in annotation}
        if "bbox" in result and len(result["bbox"]) == 0:
            raise ValueError(
                f"Annotation {annotation.get('id')} of image {annotation['image_id']} in "
                f"{self.json_file!r} has an empty 'bbox'; it must be [x, y, width, height]."
            )
        if annotation.get("segmentation"):
            segmentation = self._segmentation(annotation)
            if not segmentation:
                self.without_area += 1
                return None
            result["segmentation"] = segmentation
        if result.get("keypoints"):
            result["keypoints"] = [
                value + 0.5 if i % 3 != 2 else value for i, value in enumerate(result["keypoints"])
            ]
        rotated = len(result.get("bbox", ())) == 5
        result["bbox_mode"] = BoxMode.XYWHA_ABS if rotated else BoxMode.XYWH_ABS
        if self.id_map is not None:
            result["category_id"] = self._class(annotation)
        return result

    def _segmentation(self, annotation: dict[str, Any]) -> Any:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            try:
                return compressed(segmentation)
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(
                    f"Annotation {annotation.get('id')} of image {annotation['image_id']} in "
                    f"{self.json_file!r} has a run-length mask that cannot be decoded: {error}."
                ) from error
        return [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]

    def _class(self, annotation: dict[str, Any]) -> int:
        assert self.id_map is not None
        category = annotation["category_id"]
        if category not in self.id_map:
            raise KeyError(
                f"Annotation {annotation.get('id')} of image {annotation['image_id']} in "
                f"{self.json_file!r} has category_id {category}, which is not among the file's "
                f"categories: {sorted(self.id_map)[:20]}. Add it there, or mend the annotation."
            )
        return self.id_map[category]

    def report(self) -> None:
        if self.without_area:
            logger.warning(
                "%d annotations of %s are left out: their polygons have fewer than three points, "
                "or an odd number of coordinates.",
                self.without_area,
                self.json_file,
            )


def compressed(rle: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(rle["counts"], list):
        return rle
    import hotcoco.mask

    height, width = rle["size"]
    return hotcoco.mask.frPyObjects(rle, height, width)
