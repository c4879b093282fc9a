"""Run COCOeval on one task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detectron2.evaluation.coco_dataset import as_hotcoco
from detectron2.evaluation.coco_loading import load_results
from detectron2.evaluation.coco_stream import StreamedCOCOeval
from detectron2.evaluation.fast_eval_api import DETECTION_ROWS, COCOeval_opt, Row
from detectron2.evaluation.result_stream import ResultStream

__all__ = ["COCOevalMaxDets", "evaluate_predictions_on_coco"]

_DEFAULT_MAX_DETS = [1, 10, 100]


class COCOevalMaxDets(COCOeval_opt):
    """COCOeval whose table is about the largest of three numbers of detections, not about 100."""

    def _max_dets(self, row: Row) -> int:
        if row == DETECTION_ROWS[0] and self.params.iouType != "keypoints":
            return self.params.maxDets[2]
        return super()._max_dets(row)


class StreamedCOCOevalMaxDets(StreamedCOCOeval, COCOevalMaxDets):
    """Both: detections in chunks, and a table about the largest of three numbers."""


def evaluate_predictions_on_coco(
    coco_gt: Any,
    coco_results: Sequence[dict[str, Any]],
    iou_type: str,
    kpt_oks_sigmas: Sequence[float] | None = None,
    cocoeval_fn: Any = None,
    img_ids: Sequence[int] | None = None,
    max_dets_per_image: Sequence[int] | None = None,
    use_fast_impl: bool = True,
) -> Any:
    """Evaluate one task.

    Args:
        coco_gt: COCO object of the ground truth.
        coco_results: at least one detection in COCO's result format.
        iou_type: "bbox", "segm" or "keypoints".
        kpt_oks_sigmas: spread of each keypoint; COCO's 17 if empty.
        cocoeval_fn: class with the interface of COCOeval, which is then given all detections;
            chosen by the task if None.
        img_ids: evaluate these images only.
        max_dets_per_image: three or more numbers of detections, [1, 10, 100] if None.
        use_fast_impl: accepted for compatibility.

    Returns:
        The COCOeval after `summarize`.
    """
    if len(coco_results) == 0:
        raise AssertionError("There are no results to evaluate.")
    max_dets = list(_DEFAULT_MAX_DETS if max_dets_per_image is None else max_dets_per_image)
    if len(max_dets) < 3:
        raise AssertionError(f"max_dets_per_image has three numbers or more, not {max_dets}.")
    coco_eval = _new_evaluation(coco_gt, coco_results, iou_type, cocoeval_fn, max_dets)
    if iou_type != "keypoints":
        coco_eval.params.maxDets = max_dets
    if img_ids is not None:
        coco_eval.params.imgIds = list(img_ids)
    if iou_type == "keypoints":
        _set_sigmas(coco_eval, coco_gt, coco_results, kpt_oks_sigmas)
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval


def _new_evaluation(
    coco_gt: Any,
    results: Sequence[dict[str, Any]],
    iou_type: str,
    cocoeval_fn: Any,
    max_dets: Sequence[int],
) -> Any:
    """The COCOeval that fits: of the class asked for, or in chunks where it can be."""
    usual = max_dets[2] == _DEFAULT_MAX_DETS[2]
    if isinstance(cocoeval_fn, type):
        return cocoeval_fn(coco_gt, load_results(coco_gt, results, iou_type), iou_type)
    if isinstance(results, ResultStream):
        streamed = StreamedCOCOeval if usual else StreamedCOCOevalMaxDets
        return streamed(as_hotcoco(coco_gt), results, iou_type)
    at_once = COCOeval_opt if usual else COCOevalMaxDets
    return at_once(coco_gt, load_results(coco_gt, results, iou_type), iou_type)


def _set_sigmas(
    coco_eval: Any,
    coco_gt: Any,
    results: Sequence[dict[str, Any]],
    sigmas: Sequence[float] | None,
) -> None:
    if sigmas is not None and len(sigmas):
        coco_eval.params.kpt_oks_sigmas = np.array(sigmas, dtype=np.float64)
    annotation = coco_gt.loadAnns(coco_gt.getAnnIds()[:1])[0]
    counts = {
        "predicted": len(results[0]["keypoints"]) // 3,
        "annotated": len(annotation["keypoints"]) // 3,
        "sigmas": len(coco_eval.params.kpt_oks_sigmas),
    }
    if len(set(counts.values())) > 1:
        raise AssertionError(
            f"Numbers of keypoints differ: {counts}. If the dataset does not have COCO's 17 "
            "keypoints, set TEST.KEYPOINT_OKS_SIGMAS (kpt_oks_sigmas) to one number for each."
        )
