"""Ground truth in COCO's format, held by hotcoco."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.utils.file_io import PathManager

__all__ = ["NO_IMAGE", "GroundTruth", "as_hotcoco", "load_ground_truth", "numbered"]

NO_IMAGE = -1  # number of an image that the ground truth does not have


@dataclass(frozen=True)
class GroundTruth:
    """coco: a hotcoco.COCO, whose ids are non-negative integers.

    image_numbers: its number for each image id of the file; None if they are the same.
    has_annotations: whether the file says what is in the images; those of test sets do not.
    """

    coco: Any
    image_numbers: Mapping[Hashable, int] | None = None
    has_annotations: bool = True

    def number_of(self, image_id: Hashable) -> int:
        """The id that `coco` knows an image by.

        Raises:
            KeyError: the file has no such image.
        """
        if self.image_numbers is None:
            return image_id  # type: ignore[return-value]
        try:
            return self.image_numbers[image_id]
        except KeyError:
            raise KeyError(f"The ground truth has no image with id {image_id!r}.") from None


def load_ground_truth(json_file: str) -> GroundTruth:
    """Read a COCO file. Image ids may be text, as dataset records allow.

    Raises:
        ValueError: the file is not what COCO files look like; the message says where.
    """
    path = PathManager.get_local_path(json_file)
    coco = _read(path)
    if coco is not None and coco.getAnnIds():
        return GroundTruth(coco)
    with open(path, encoding="utf-8") as stream:
        return numbered(json.load(stream), json_file)


def _read(path: str) -> Any | None:
    """The file as hotcoco reads it; None if it does not.

    It keys images by non-negative integers. Anything else that is wrong with the file is still
    wrong when the images are numbered, and raises then.
    """
    from detectron2.evaluation.coco_api import CocoApi

    try:
        return CocoApi(path)
    except ValueError:
        return None


def numbered(content: dict[str, Any], name: str) -> GroundTruth:
    """A COCO dictionary, with its images numbered if their ids are no such integers.

    Raises:
        ValueError: the dictionary is not what COCO files look like; `name` is part of the message.
    """
    from detectron2.evaluation.coco_api import CocoApi

    image_ids = [image["id"] for image in content.get("images", ())]
    numbers = None
    if not all(isinstance(image_id, int) and image_id >= 0 for image_id in image_ids):
        numbers = {image_id: number for number, image_id in enumerate(image_ids, start=1)}
        content = _renumbered(content, numbers)
    try:
        return GroundTruth(CocoApi(content), numbers, "annotations" in content)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _renumbered(content: dict[str, Any], numbers: Mapping[Hashable, int]) -> dict[str, Any]:
    def with_number(records: Iterable[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        return [{**record, key: numbers[record[key]]} for record in records]

    renumbered = {**content, "images": with_number(content["images"], "id")}
    if "annotations" in content:
        renumbered["annotations"] = with_number(content["annotations"], "image_id")
    return renumbered


# What COCO's protocol reads of an annotation, by task. hotcoco fills what is missing with a guess.
_TRUTH_FIELDS = {
    "bbox": ("bbox",),
    "segm": ("segmentation",),
    "keypoints": ("keypoints", "num_keypoints", "bbox"),
}
_RESULT_FIELDS = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("keypoints",)}


def as_hotcoco(dataset: Any, task: str | None = None, results: bool = False) -> Any:
    """A hotcoco.COCO of a dataset that may be another library's COCO object.

    Args:
        dataset: a hotcoco.COCO, or anything whose ``dataset`` is a COCO dictionary.
        task: "bbox", "segm" or "keypoints", to check that annotations have what it takes.
        results: the annotations are detections, not ground truth.

    Raises:
        KeyError: an annotation lacks a field.
    """
    from hotcoco import COCO

    if dataset is None or isinstance(dataset, COCO):
        return dataset
    if task is not None:
        shared = ("area", "score") if results else ("area", "iscrowd")
        own = (_RESULT_FIELDS if results else _TRUTH_FIELDS)[task]
        _require_fields(dataset.dataset.get("annotations", ()), (*shared, *own))
    return COCO(dataset.dataset) if dataset.dataset else COCO()


def _require_fields(annotations: Iterable[dict[str, Any]], fields: Iterable[str]) -> None:
    for annotation in annotations:
        for field in fields:
            if field not in annotation:
                raise KeyError(f"Annotation {annotation.get('id')} has no {field!r}.")
