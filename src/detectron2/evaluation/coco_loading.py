"""Detections as an object of hotcoco that COCOeval takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detectron2.evaluation.coco_at_once import batch_rows
from detectron2.evaluation.coco_dataset import as_hotcoco
from detectron2.evaluation.coco_results import CocoResults, no_garbage_collection
from detectron2.evaluation.result_stream import ResultStream

__all__ = ["load_results"]


def load_results(coco_gt: Any, results: Sequence[dict[str, Any]], iou_type: str) -> Any:
    """COCO object of the detections; for masks its areas are those of the masks."""
    dataset = as_hotcoco(coco_gt)
    if isinstance(results, ResultStream):
        results = results.joined()
    if iou_type == "keypoints" or not isinstance(results, CocoResults):
        if iou_type == "segm":  # a box would decide the area
            results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        return dataset.loadRes(list(results))
    rows = batch_rows(results, results.boxes)
    if iou_type != "segm":
        return dataset.loadRes(rows)
    if results.mask_counts is None:
        raise ValueError("There are no masks among the predictions to evaluate 'segm' with.")
    with no_garbage_collection():
        detections = dataset.loadRes(rows, segmentation=results.masks())
    ids = np.arange(1, len(results) + 1)  # loadRes numbers detections from 1
    detections.update_anns(ids=ids, area=results.mask_areas)
    return detections
