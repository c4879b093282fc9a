"""Writing COCO: annotations/instances_SPLIT.json and the images of each split in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.data.datasets._coco_writing import annotation_area, json_segmentation
from detectron2.data.datasets.auto import ALL
from detectron2.data.datasets.convert.content import Content, ImageCopier, Record, is_rotated
from detectron2.structures import BoxMode

__all__ = ["write"]


def write(content: Content, folder: Path, images: str) -> None:
    """Write a dataset into an empty folder."""
    if any(is_rotated(annotation) for annotation in content.annotations()):
        content.remarks.append(
            "Rotated boxes are written with five numbers (x and y of the centre, width, height, "
            "degrees anticlockwise), which plain readers of COCO do not know."
        )
    (folder / "annotations").mkdir()
    for split, records in content.splits.items():
        whole = split == ALL
        target = folder / ("images" if whole else split)
        name = "instances.json" if whole else f"instances_{split}.json"
        converted = _converted(content, records, target, ImageCopier(images))
        text = json.dumps(converted, ensure_ascii=False)
        (folder / "annotations" / name).write_text(text, encoding="utf-8")


def _converted(
    content: Content, records: list[Record], target: Path, copier: ImageCopier
) -> dict[str, Any]:
    ids = [record.get("image_id") for record in records]
    keep_ids = len(set(ids)) == len(ids) and all(isinstance(i, int) for i in ids)
    images, annotations = [], []
    target.mkdir()
    for number, record in enumerate(records, 1):
        image_id = record["image_id"] if keep_ids else number
        file_name = copier.put(record["file_name"], target).name
        images.append(
            {
                "id": image_id,
                "file_name": file_name,
                "width": int(record["width"]),
                "height": int(record["height"]),
            }
        )
        for annotation in record["annotations"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(annotation["category_id"]) + 1,
                    **_annotation(annotation),
                }
            )
    keypoints = {"keypoints": content.keypoints} if content.keypoints else {}
    categories = [{"id": i, "name": name, **keypoints} for i, name in enumerate(content.classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    mode = BoxMode.XYWHA_ABS if is_rotated(annotation) else BoxMode.XYWH_ABS
    box = np.asarray(annotation["bbox"], dtype=np.float64)
    box = np.asarray(BoxMode.convert(box, annotation["bbox_mode"], mode))
    result: dict[str, Any] = {
        "bbox": box.tolist(),
        "area": annotation_area(annotation, box),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    if annotation.get("segmentation") is not None:
        result["segmentation"] = json_segmentation(annotation["segmentation"])
    if annotation.get("keypoints") is not None:
        points = np.asarray(annotation["keypoints"], dtype=np.float64).reshape(-1, 3).copy()
        # COCO's keypoints are pixel indices; a pixel's centre is half a pixel further.
        points[:, :2] -= 0.5
        result["keypoints"] = [
            int(value) if i % 3 == 2 else value
            for i, value in enumerate(points.reshape(-1).tolist())
        ]
        result["num_keypoints"] = int((points[:, 2] > 0).sum())
    return result
