"""From annotations of records to those of a COCO file."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectron2.data.datasets._coco_reading import compressed
from detectron2.structures import Boxes, BoxMode, PolygonMasks, RotatedBoxes

__all__ = ["annotation_area", "json_segmentation", "to_coco_annotation"]


def to_coco_annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    """COCO's annotation of a record's, without ids."""
    box = np.asarray(annotation["bbox"], dtype=np.float64)
    to_mode = BoxMode.XYWH_ABS if len(box) == 4 else BoxMode.XYWHA_ABS
    box = np.asarray(BoxMode.convert(box, annotation["bbox_mode"], to_mode))
    result: dict[str, Any] = {
        "bbox": [round(float(value), 3) for value in box],
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "area": annotation_area(annotation, box),
    }
    if annotation.get("keypoints") is not None:
        keypoints = [
            # From coordinates to pixel indices.
            value if i % 3 == 2 else value - 0.5
            for i, value in enumerate(np.asarray(annotation["keypoints"]).reshape(-1).tolist())
        ]
        visible = [int(value) for value in keypoints[2::3]]
        keypoints[2::3] = visible
        result["keypoints"] = keypoints
        result["num_keypoints"] = sum(value > 0 for value in visible)
    if annotation.get("segmentation") is not None:
        result["segmentation"] = json_segmentation(annotation["segmentation"])
    return result


def annotation_area(annotation: dict[str, Any], box: np.ndarray) -> float:
    """Area of the segmentation, else of the box, which is XYWH or XYWHA; in pixels."""
    segmentation = annotation.get("segmentation")
    if segmentation is None and len(box) == 5:
        return float(RotatedBoxes([box.tolist()]).area()[0])
    if segmentation is None:
        x, y, w, h = box.tolist()
        return float(Boxes([[x, y, x + w, y + h]]).area()[0])
    if isinstance(segmentation, list):
        return float(PolygonMasks([segmentation]).area()[0])
    import hotcoco.mask

    return float(hotcoco.mask.area(compressed(segmentation)))


def json_segmentation(segmentation: Any) -> Any:
    """Polygons or run lengths as values that JSON can hold."""
    if isinstance(segmentation, list):
        return [np.asarray(polygon).reshape(-1).tolist() for polygon in segmentation]
    if not isinstance(segmentation, dict):
        raise TypeError(
            f"A segmentation of type {type(segmentation).__name__} has no place in COCO's format; "
            "use polygons or a run-length encoding."
        )
    rle = compressed(segmentation)
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
