"""COCO metrics of rotated boxes."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from detectron2.evaluation.coco_conversion import to_coco_results
from detectron2.evaluation.coco_dataset import GroundTruth, numbered
from detectron2.evaluation.coco_evaluation import COCOEvaluator
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.structures import BoxMode, Instances, RotatedBoxes, pairwise_iou_rotated
from detectron2.utils.file_io import PathManager

__all__ = [
    "BoxMode",
    "COCOEvaluator",
    "RotatedBoxes",
    "RotatedCOCOEvaluator",
    "RotatedCOCOeval",
    "pairwise_iou_rotated",
]


class RotatedCOCOeval(COCOeval_opt):
    """COCOeval whose overlap is that of rotated boxes.

    A "bbox" has five numbers (x centre, y centre, width, height, degrees anticlockwise), or four
    (XYWH, upright); both may occur in one dataset. hotcoco does the matching, with the overlap of
    rotated boxes in double precision; the methods below answer what an overlap was.
    """

    @staticmethod
    def is_rotated(box_list: Any) -> bool:
        """Whether every box of a list or array has five numbers; an empty list has none."""
        return len(box_list) > 0 and all(np.size(box) == 5 for box in box_list)

    @staticmethod
    def boxlist_to_tensor(boxlist: Any, output_box_dim: int) -> torch.Tensor:
        """(N, output_box_dim) float32 tensor of boxes; upright ones can become rotated ones.

        Raises:
            ValueError: rotated boxes cannot be written with four numbers.
        """
        boxes = torch.as_tensor(np.asarray(boxlist, dtype=np.float32))
        if boxes.numel() == 0:
            return boxes.new_zeros((0, output_box_dim))
        if boxes.shape[1] == output_box_dim:
            return boxes
        if (boxes.shape[1], output_box_dim) != (4, 5):
            raise ValueError(
                f"Boxes of {boxes.shape[1]} numbers cannot be written with {output_box_dim}."
            )
        return BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)

    def compute_iou_dt_gt(self, dt: Any, gt: Any, is_crowd: Sequence[Any]) -> torch.Tensor:
        """(D, G) IoU of detections and ground truth.

        Raises:
            AssertionError: a crowd is among the ground truth; its overlap is not defined here.
        """
        if any(is_crowd):
            raise AssertionError("The overlap of rotated boxes with a crowd is not defined.")
        boxes = (RotatedBoxes(self.boxlist_to_tensor(each, 5)) for each in (dt, gt))
        return pairwise_iou_rotated(*boxes)

    def computeIoU(self, imgId: int, catId: int) -> torch.Tensor:
        """(D, G) IoU in an image of a category: the highest scores first, as many as count."""
        gt, dt = (
            dataset.loadAnns(dataset.getAnnIds(imgIds=[imgId], catIds=[catId]))
            for dataset in (self.cocoGt, self.cocoDt)
        )
        order = np.argsort([-detection["score"] for detection in dt], kind="mergesort")
        dt = [dt[i] for i in order[: max(self.params.maxDets)]]
        return self.compute_iou_dt_gt(
            [_box_of(detection) for detection in dt],
            [_box_of(annotation) for annotation in gt],
            [annotation.get("iscrowd", 0) for annotation in gt],
        )

    def _make_native(self) -> Any:
        from hotcoco import COCOeval

        native = COCOeval(as_oriented(self.cocoGt), as_oriented(self.cocoDt), "obb")
        params = self.params.to_hotcoco()
        params.iouType = "obb"
        native.params = params
        return native


class RotatedCOCOEvaluator(COCOEvaluator):
    """AP of rotated boxes with COCO's protocol; boxes only, no masks or keypoints.

    The ground truth may mix rotated and upright boxes.
    """

    def _load_ground_truth(self, json_file: str) -> GroundTruth:
        with PathManager.open(json_file) as stream:
            content = json.load(stream)
        return numbered(_oriented(content), json_file)

    def _to_results(self, instances: Instances, image_id: Hashable) -> Any:
        return self.instances_to_json(self._without_non_finite(instances), image_id)

    def instances_to_json(self, instances: Instances, img_id: Hashable) -> Sequence[dict[str, Any]]:
        """Detections of one image in COCO's result format, with boxes of five numbers.

        Args:
            instances: pred_boxes (Boxes or RotatedBoxes), scores and pred_classes, on the CPU.
            img_id: id of the image.
        """
        boxes_only = Instances(
            instances.image_size,
            pred_boxes=instances.pred_boxes,
            scores=instances.scores,
            pred_classes=instances.pred_classes,
        )
        return to_coco_results(boxes_only, img_id)

    def _tasks_from_predictions(self, predictions: Sequence[dict[str, Any]]) -> set[str]:
        return {"bbox"}

    def _evaluate_task(
        self, results: Sequence[dict[str, Any]], task: str, img_ids: Sequence[int] | None
    ) -> RotatedCOCOeval | None:
        if task != "bbox":
            raise AssertionError(f"Rotated boxes are evaluated for 'bbox' only, not for {task!r}.")
        if len(results) == 0:
            return None
        detections = [_with_orientation(r) for r in self._with_image_numbers(results)]
        coco_eval = RotatedCOCOeval(self._coco_api, self._coco_api.loadRes(detections), "bbox")
        coco_eval.params.maxDets = self._max_dets_per_image
        if img_ids is not None:
            coco_eval.params.imgIds = [self._ground_truth.number_of(i) for i in img_ids]
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
        return coco_eval


def as_oriented(dataset: Any) -> Any:
    """A hotcoco.COCO whose annotations have oriented boxes, from one that may have five-number
    "bbox" fields."""
    from hotcoco import COCO

    if dataset is None or isinstance(dataset, COCO):
        return dataset
    return COCO(_oriented(dataset.dataset))


def _oriented(content: Mapping[str, Any]) -> dict[str, Any]:
    if "annotations" not in content:
        return dict(content)
    return {**content, "annotations": [_with_orientation(a) for a in content["annotations"]]}


def _with_orientation(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """An annotation with "obb", hotcoco's oriented box, in place of a five-number "bbox"."""
    box = [float(value) for value in annotation["bbox"]]
    if len(box) == 4:
        x, y, width, height = box
        box = [x + width / 2, y + height / 2, width, height, 0.0]
    rest = {key: value for key, value in annotation.items() if key != "bbox"}
    # hotcoco turns from x towards y in radians; y points down, so that is clockwise.
    return {**rest, "obb": [*box[:4], -math.radians(box[4])]}


def _box_of(annotation: Mapping[str, Any]) -> list[float]:
    """(x centre, y centre, width, height, degrees) of an annotation of any kind."""
    oriented = annotation.get("obb") or _with_orientation(annotation)["obb"]
    return [*oriented[:4], -math.degrees(oriented[4])]
