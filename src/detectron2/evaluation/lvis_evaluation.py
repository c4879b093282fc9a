"""LVIS metrics of boxes, masks and proposals.

A. Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_conversion import (
    dataset_categories,
    instances_to_coco_json,
    save_proposals,
    to_coco_results,
    without_non_finite,
)
from detectron2.evaluation.coco_dataset import load_ground_truth
from detectron2.evaluation.coco_loading import load_results
from detectron2.evaluation.coco_results import CocoResults
from detectron2.evaluation.coco_stream import match_in_chunks
from detectron2.evaluation.detection_limits import (
    NO_LIMIT,
    best_of_each_category,
    highest_of_each_image,
)
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.evaluation.output_files import open_output, write_json_list
from detectron2.evaluation.proposal_recall import proposal_recalls
from detectron2.evaluation.result_stream import ResultStream
from detectron2.evaluation.spool import gather_predictions
from detectron2.evaluation.spooled_evaluator import SpooledEvaluator
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

__all__ = [
    "BoxMode",
    "Boxes",
    "CfgNode",
    "DatasetEvaluator",
    "LVISEvaluator",
    "MetadataCatalog",
    "create_small_table",
    "instances_to_coco_json",
    "pairwise_iou",
]

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
_DEFAULT_MAX_DETS = 300


class LVISEvaluator(SpooledEvaluator):
    """AP of boxes and masks with LVIS' protocol, and AR of proposals.

    Not every image is annotated with every category: a detection counts as wrong only where the
    annotators looked for its category. APr, APc and APf are means over rare, common and frequent
    categories.

    Detections whose score or box is NaN or infinite are left out, and the log says how many.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        fixed_ap: bool = False,
    ) -> None:
        """
        Args:
            dataset_name: registered dataset whose metadata has ``json_file``.
            tasks: of "bbox" and "segm"; None: all that the predictions have.
            distributed: gather the predictions of all processes; otherwise each process
                evaluates its own.
            output_dir: folder for "lvis_instances_results.json" and "box_proposals.pkl".
            max_dets_per_image: detections that count per image, over all categories; 300 if None.
            fixed_ap: also report "bbox_fixed" and "segm_fixed": AP of the 10,000 detections of
                each category that score highest in the whole dataset, however many an image has
                (A. Dave et al., "Evaluating Large-Vocabulary Object Detectors", 2021). A limit
                per image rewards scores that are comparable across categories; this one does
                not care. The model should then return more than 300 detections per image.
        """
        self._logger = logging.getLogger(__name__)
        if isinstance(tasks, CfgNode):
            self._logger.warning("LVISEvaluator takes tasks, not a config; taking all tasks.")
            tasks = None
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets_per_image = max_dets_per_image
        self._fixed_ap = fixed_ap
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        self._ground_truth = load_ground_truth(self._metadata.json_file)
        self._lvis_api = self._ground_truth.coco
        # Test sets come without annotations: predictions are written, not evaluated.
        self._do_evaluation = bool(self._lvis_api.get_ann_ids())
        self._results: OrderedDict[str, Any] = OrderedDict()
        self.reset()

    def reset(self) -> None:
        self._predictions: Any = self._new_spool(self._metadata.name)
        self._dropped = 0

    def takes_box_masks(self) -> bool:
        # A subclass that looks at the outputs itself expects masks in full images.
        return type(self).process is LVISEvaluator.process

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            inputs: records with "image_id".
            outputs: dictionaries with "instances" or "proposals", as for `COCOEvaluator`.
        """
        for record, output in zip(inputs, outputs):
            prediction: dict[str, Any] = {"image_id": record["image_id"]}
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                finite = without_non_finite(instances)
                self._dropped += len(instances) - len(finite)
                prediction["instances"] = to_coco_results(finite, record["image_id"])
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            self._predictions.append(prediction)

    def evaluate(self) -> Mapping[str, Any] | None:
        """Metrics of everything processed, in percent: ``{"bbox": {"AP": ...}, ...}``.

        Returns:
            An empty dictionary if nothing was processed; None on other than the main process.
        """
        if self._dropped:
            self._logger.warning(
                f"[LVISEvaluator] Left out {self._dropped} detections with NaN or infinite "
                "scores or boxes."
            )
        predictions = gather_predictions(self._predictions, self._distributed)
        if predictions is None:
            return None
        if not predictions:
            self._logger.warning("[LVISEvaluator] Did not receive valid predictions.")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
        self._results = OrderedDict()
        if "proposals" in predictions[0]:
            self._eval_box_proposals(predictions)
        if "instances" in predictions[0]:
            self._eval_predictions(predictions)
        self._complete(predictions)
        return copy.deepcopy(self._results)

    def _output_file(self, name: str) -> str:
        assert self._output_dir is not None
        return os.path.join(self._output_dir, name)

    def _tasks_from_predictions(self, predictions: Sequence[Mapping[str, Any]]) -> set[str]:
        """Tasks that the "instances" of predictions can be evaluated for."""
        masked = any(p["instances"].mask_counts is not None for p in predictions)
        return {"bbox", "segm"} if masked else {"bbox"}

    def _eval_predictions(self, predictions: Sequence[dict[str, Any]]) -> None:
        """Evaluate the "instances" of `predictions` and fill `self._results`."""
        self._logger.info("Preparing results in the LVIS format ...")
        tasks = self._tasks or self._tasks_from_predictions(predictions)
        stream = ResultStream.over(predictions)
        if stream is None:
            raise ValueError("LVISEvaluator evaluates predictions that its process() has made.")
        results = stream.mapped(self._to_dataset_ids)
        if self._output_dir:
            path = self._output_file("lvis_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            write_json_list(path, results)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        best = best_of_each_category(results) if self._fixed_ap and len(results) else results
        for task in sorted(tasks):
            self._results[task] = self._evaluate_task(results, task, self._max_dets_per_image)
            if self._fixed_ap:
                self._results[f"{task}_fixed"] = self._evaluate_task(best, task, NO_LIMIT)

    def _evaluate_task(
        self, results: ResultStream, task: str, max_dets_per_image: int | None
    ) -> dict[str, float]:
        return _evaluate_predictions_on_lvis(
            self._lvis_api,
            results,
            task,
            max_dets_per_image=max_dets_per_image,
            class_names=self._metadata.get("thing_classes"),
        )

    def _to_dataset_ids(self, results: CocoResults) -> CocoResults:
        """`results` with the category ids of the dataset; LVIS itself counts from 1."""
        if not hasattr(self._metadata, "thing_dataset_id_to_contiguous_id"):
            return results.replaced(category_ids=results.category_ids + 1)
        index_of = self._metadata.thing_dataset_id_to_contiguous_id
        return results.replaced(category_ids=dataset_categories(results.category_ids, index_of))

    def _eval_box_proposals(self, predictions: Sequence[dict[str, Any]]) -> None:
        """Fill ``self._results["box_proposals"]`` with the average recall of "proposals"."""
        if self._output_dir:
            with open_output(self._output_file("box_proposals.pkl"), "wb") as stream:
                save_proposals(predictions, stream)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        recalls = proposal_recalls(predictions, self._ground_truth)
        self._logger.info("Proposal metrics: \n" + create_small_table(recalls))
        self._results["box_proposals"] = recalls


def _evaluate_predictions_on_lvis(
    lvis_gt: Any,
    lvis_results: Sequence[dict[str, Any]],
    iou_type: str,
    max_dets_per_image: int | None = None,
    class_names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Evaluate one task.

    Args:
        lvis_gt: COCO object of the ground truth.
        lvis_results: detections in COCO's result format.
        iou_type: "bbox" or "segm".
        max_dets_per_image: detections that count per image, 300 if None, all if negative.
        class_names: accepted for compatibility.

    Returns:
        Metrics in percent; NaN without any detection, -100 where there is nothing to find.
    """
    logger = logging.getLogger(__name__)
    if len(lvis_results) == 0:
        logger.warning("No predictions from the model!")
        return {metric: float("nan") for metric in METRICS}
    limit = _DEFAULT_MAX_DETS if max_dets_per_image is None else max_dets_per_image
    logger.info(f"Evaluating with max detections per image = {limit}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        lvis_eval = _matched(lvis_gt, lvis_results, iou_type, limit)
        lvis_eval.accumulate()
        lvis_eval.summarize()
    values = lvis_eval.get_results()
    results = {metric: float(values[metric] * 100) for metric in METRICS}
    logger.info(f"Evaluation results for {iou_type}: \n" + create_small_table(results))
    return results


def _matched(lvis_gt: Any, results: Sequence[dict[str, Any]], iou_type: str, limit: int) -> Any:
    """A hotcoco.COCOeval that has matched everything: in chunks, where that is possible."""
    from hotcoco import COCOeval, Params

    # A stream has LVIS' own limit of 300 built in.
    if isinstance(results, ResultStream) and 0 <= limit <= _DEFAULT_MAX_DETS:
        capped = results.mapped(lambda part: highest_of_each_image(part, limit))
        return match_in_chunks(
            lvis_gt, capped, Params(iou_type), lvis_gt.getImgIds(), lvis_style=True
        )
    detections = load_results(lvis_gt, results, iou_type)
    capped = detections.cap_detections_per_image(None if limit < 0 else limit)
    lvis_eval = COCOeval(lvis_gt, capped, iou_type, lvis_style=True)
    lvis_eval.evaluate()
    return lvis_eval
