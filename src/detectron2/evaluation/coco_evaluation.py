"""COCO metrics of boxes, masks, keypoints and proposals."""

from __future__ import annotations

import copy
import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation.coco_conversion import (
    as_plain,
    dataset_categories,
    instances_to_coco_json,
    save_proposals,
    to_coco_results,
    without_non_finite,
)
from detectron2.evaluation.coco_dataset import NO_IMAGE, GroundTruth, load_ground_truth
from detectron2.evaluation.coco_results import CocoResults
from detectron2.evaluation.coco_task import COCOevalMaxDets, evaluate_predictions_on_coco
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.evaluation.output_files import open_output, save_list, write_json_list
from detectron2.evaluation.per_category import category_precisions, category_table
from detectron2.evaluation.proposal_recall import evaluate_box_proposals, proposal_recalls
from detectron2.evaluation.result_stream import ResultStream
from detectron2.evaluation.spool import gather_predictions
from detectron2.evaluation.spooled_evaluator import SpooledEvaluator
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

__all__ = [
    "Boxes",
    "BoxMode",
    "COCOEvaluator",
    "COCOevalMaxDets",
    "COCOeval_opt",
    "CfgNode",
    "DatasetEvaluator",
    "MetadataCatalog",
    "convert_to_coco_json",
    "create_small_table",
    "instances_to_coco_json",
    "pairwise_iou",
]

# The first entries of COCOeval.stats, by task.
METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}
_DEFAULT_MAX_DETS = 100

# Imported from here by other projects.
_evaluate_box_proposals = evaluate_box_proposals
_evaluate_predictions_on_coco = evaluate_predictions_on_coco


class COCOEvaluator(SpooledEvaluator):
    """AP of boxes, masks and keypoints, and AR of proposals, with COCO's protocol.

    Works with every dataset of "instances" records: one without a COCO file is written as one.

    Detections whose score or box is NaN or infinite are not results: they are left out, and the
    log says how many. Boxes outside of the image are kept; they match nothing.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: registered dataset. Its metadata holds ``json_file``, or the file is
                written to `output_dir` first.
            tasks: of "bbox", "segm", "keypoints"; None: all that the predictions have.
            distributed: gather the predictions of all processes; otherwise each process
                evaluates its own.
            output_dir: folder for "instances_predictions.pth" (what was processed, as plain
                lists), "coco_instances_results.json" and "box_proposals.pkl". None writes nothing.
            max_dets_per_image: detections that count per image and category, 100 if None.
            use_fast_impl: accepted for compatibility; the same engine serves both values.
            kpt_oks_sigmas: spread of each keypoint, COCO's 17 if empty.
            allow_cached_coco: use a COCO file written to `output_dir` by an earlier run.

        Raises:
            ValueError: the dataset has no COCO file and there is no `output_dir` to write it to.
        """
        self._logger = logging.getLogger(__name__)
        self._distributed = distributed
        self._output_dir = output_dir
        self._use_fast_impl = use_fast_impl
        self._max_dets_per_image = [1, 10, max_dets_per_image or _DEFAULT_MAX_DETS]
        if isinstance(tasks, CfgNode):
            self._logger.warning("COCOEvaluator takes tasks, not a config; taking all tasks.")
            tasks = None
        self._tasks = tasks
        self._kpt_oks_sigmas = kpt_oks_sigmas
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            self._write_ground_truth(dataset_name, allow_cached_coco)
        self._ground_truth = self._load_ground_truth(self._metadata.json_file)
        self._coco_api = self._ground_truth.coco
        # Test sets come without annotations: predictions are written, not evaluated.
        self._do_evaluation = self._ground_truth.has_annotations
        self._predictions: Any = self._new_spool(self._metadata.name)
        self._results: OrderedDict[str, Any] = OrderedDict()
        self._dropped = 0

    def _write_ground_truth(self, dataset_name: str, allow_cached: bool) -> None:
        if self._output_dir is None:
            raise ValueError(
                f"Dataset {dataset_name!r} has no COCO file (metadata.json_file). Give the "
                "evaluator an output_dir, and one is written there."
            )
        path = os.path.join(self._output_dir, f"{dataset_name}_coco_format.json")
        self._logger.info(f"Writing dataset {dataset_name!r} as COCO file {path}.")
        self._metadata.json_file = path
        convert_to_coco_json(dataset_name, path, allow_cached=allow_cached)

    def _load_ground_truth(self, json_file: str) -> GroundTruth:
        return load_ground_truth(json_file)

    # -------------------------------------------------------------- taking in predictions

    def reset(self) -> None:
        self._predictions = self._new_spool(self._metadata.name)
        self._dropped = 0

    def takes_box_masks(self) -> bool:
        # A subclass that looks at the outputs itself expects masks in full images.
        return type(self).process is COCOEvaluator.process

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            inputs: records with "image_id".
            outputs: dictionaries with "instances" (pred_boxes, scores, pred_classes, and perhaps
                pred_masks and pred_keypoints) or "proposals" (proposal_boxes,
                objectness_logits), in pixels of the original image. Masks are (N, H, W), or
                ROIMasks on the boxes, which are encoded without being drawn.
        """
        for record, output in zip(inputs, outputs):
            prediction: dict[str, Any] = {"image_id": record["image_id"]}
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                prediction["instances"] = self._to_results(instances, record["image_id"])
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def _to_results(self, instances: Instances, image_id: Hashable) -> CocoResults:
        return to_coco_results(self._without_non_finite(instances), image_id)

    def _without_non_finite(self, instances: Instances) -> Instances:
        finite = without_non_finite(instances)
        self._dropped += len(instances) - len(finite)
        return finite

    # -------------------------------------------------------------- evaluating

    def evaluate(self, img_ids: Sequence[int] | None = None) -> Mapping[str, Any]:
        """Metrics of everything processed, in percent; NaN where there is nothing to measure.

        Args:
            img_ids: evaluate these images only.

        Returns:
            ``{"bbox": {"AP": ...}, ...}`` on the main process; an empty dictionary elsewhere, or
            if nothing was processed.
        """
        predictions = self._gather_predictions()
        if predictions is None:
            return {}
        if not predictions:
            self._logger.warning("[COCOEvaluator] Did not receive valid predictions.")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with open_output(self._output_file("instances_predictions.pth"), "wb") as stream:
                if getattr(predictions, "is_large", False):
                    save_list(map(as_plain, predictions), stream)
                else:
                    torch.save([as_plain(prediction) for prediction in predictions], stream)
        self._results = OrderedDict()
        if "proposals" in predictions[0]:
            self._eval_box_proposals(predictions)
        if "instances" in predictions[0]:
            self._eval_predictions(predictions, img_ids=img_ids)
        self._complete(predictions)
        return copy.deepcopy(self._results)

    def _output_file(self, name: str) -> str:
        assert self._output_dir is not None
        return os.path.join(self._output_dir, name)

    def _gather_predictions(self) -> Sequence[dict[str, Any]] | None:
        """Predictions of all processes; None on processes that do not evaluate."""
        if self._dropped:
            self._logger.warning(
                f"[COCOEvaluator] Left out {self._dropped} detections with NaN or infinite "
                "scores or boxes."
            )
        return gather_predictions(self._predictions, self._distributed)

    def _tasks_from_predictions(self, predictions: Sequence[dict[str, Any]]) -> set[str]:
        """Tasks that a list of COCO results can be evaluated for."""
        if isinstance(predictions, ResultStream):
            has_masks, has_keypoints = predictions.masked, predictions.posed
        else:
            has_masks = any("segmentation" in result for result in predictions)
            has_keypoints = any("keypoints" in result for result in predictions)
        tasks = {"bbox"}
        if has_masks:
            tasks.add("segm")
        if has_keypoints:
            tasks.add("keypoints")
        return tasks

    def _eval_predictions(
        self, predictions: Sequence[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        """Evaluate the "instances" of `predictions` and fill `self._results`."""
        self._logger.info("Preparing results for COCO format ...")
        results = self._to_dataset_ids(self._collect_results(predictions))
        tasks = self._tasks or self._tasks_from_predictions(results)
        self._write_results(results)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        for task in sorted(tasks):
            coco_eval = self._evaluate_task(results, task, img_ids)
            self._results[task] = self._derive_coco_results(
                coco_eval, task, class_names=self._metadata.get("thing_classes")
            )

    def _collect_results(self, predictions: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The detections of all images as one list."""
        stream = ResultStream.over(predictions)
        if stream is not None:
            return stream
        # A subclass has put dictionaries there.
        return list(itertools.chain(*(p["instances"] for p in predictions if "instances" in p)))

    def _to_dataset_ids(self, results: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """`results` with the category ids of the dataset in place of class indices."""
        if not hasattr(self._metadata, "thing_dataset_id_to_contiguous_id"):
            return results
        index_of = self._metadata.thing_dataset_id_to_contiguous_id
        if isinstance(results, ResultStream):
            return results.mapped(
                lambda part: part.replaced(
                    category_ids=dataset_categories(part.category_ids, index_of)
                )
            )
        indices = np.array([result["category_id"] for result in results], dtype=np.int64)
        categories = dataset_categories(indices, index_of).tolist()
        return [{**r, "category_id": category} for r, category in zip(results, categories)]

    def _write_results(self, results: Sequence[dict[str, Any]]) -> None:
        """Write "coco_instances_results.json", the file that evaluation servers take."""
        if self._output_dir:
            path = self._output_file("coco_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            write_json_list(path, results)

    def _evaluate_task(
        self, results: Sequence[dict[str, Any]], task: str, img_ids: Sequence[int] | None
    ) -> COCOeval_opt | None:
        """COCO evaluation of one task; None if there is no detection at all."""
        if task not in METRICS:
            raise AssertionError(f"Unknown task {task!r}; there are {sorted(METRICS)}.")
        if len(results) == 0:
            return None
        return _evaluate_predictions_on_coco(
            self._coco_api,
            self._with_image_numbers(results),
            task,
            kpt_oks_sigmas=self._kpt_oks_sigmas,
            use_fast_impl=self._use_fast_impl,
            img_ids=None if img_ids is None else [self._ground_truth.number_of(i) for i in img_ids],
            max_dets_per_image=self._max_dets_per_image,
        )

    def _with_image_numbers(self, results: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """`results` with the ids that `self._coco_api` knows images by."""
        numbers = self._ground_truth.image_numbers
        if numbers is None:
            return results
        if isinstance(results, ResultStream):
            return results.renumbered(lambda image_id: numbers.get(image_id, NO_IMAGE))
        return [{**r, "image_id": numbers.get(r["image_id"], NO_IMAGE)} for r in results]

    def _eval_box_proposals(self, predictions: Sequence[dict[str, Any]]) -> None:
        """Fill ``self._results["box_proposals"]`` with the average recall of "proposals"."""
        if self._output_dir:
            with open_output(self._output_file("box_proposals.pkl"), "wb") as stream:
                save_proposals(predictions, stream)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        self._logger.info("Evaluating bbox proposals ...")
        recalls = proposal_recalls(predictions, self._ground_truth)
        self._logger.info("Proposal metrics: \n" + create_small_table(recalls))
        self._results["box_proposals"] = recalls

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Metrics of one task, logged as tables.

        Args:
            coco_eval: a COCOeval that has been summarised; None gives NaN everywhere.
            iou_type: "bbox", "segm" or "keypoints".
            class_names: name of each category; with two or more the result has an
                "AP-<name>" for each.

        Returns:
            Metrics in percent.
        """
        metrics = METRICS[iou_type]
        if coco_eval is None:
            self._logger.warning("No predictions from the model!")
            return {metric: float("nan") for metric in metrics}
        results = {
            metric: float(value * 100) if value >= 0 else float("nan")
            for metric, value in zip(metrics, coco_eval.stats)
        }
        self._logger.info(f"Evaluation results for {iou_type}: \n" + create_small_table(results))
        if not np.isfinite(list(results.values())).all():
            self._logger.info("Some metrics cannot be computed and is shown as NaN.")
        if class_names is None or len(class_names) <= 1:
            return results
        per_category = category_precisions(coco_eval.eval["precision"], class_names)
        self._logger.info(f"Per-category {iou_type} AP: \n" + category_table(per_category))
        results.update({f"AP-{name}": value for name, value in per_category})
        return results
