"""Panoptic quality.

A. Kirillov et al., "Panoptic Segmentation", CVPR 2019.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tabulate import tabulate

from detectron2.data import MetadataCatalog
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.evaluation.output_files import open_output
from detectron2.evaluation.spool import gather_predictions
from detectron2.evaluation.spooled_evaluator import SpooledEvaluator
from detectron2.utils.file_io import PathManager

__all__ = ["COCOPanopticEvaluator", "DatasetEvaluator", "MetadataCatalog"]

logger = logging.getLogger(__name__)

_GROUPS = {"": "All", "_th": "Things", "_st": "Stuff"}
_VOID = -1


class COCOPanopticEvaluator(SpooledEvaluator):
    """PQ, SQ and RQ with COCO's protocol: of all categories, of things and of stuff.

    Predictions are kept on disk as compressed PNG images until they are evaluated.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        """
        Args:
            dataset_name: registered dataset whose metadata has panoptic_json, panoptic_root,
                thing_dataset_id_to_contiguous_id and stuff_dataset_id_to_contiguous_id.
            output_dir: folder for "predictions.json".
        """
        self._metadata = MetadataCatalog.get(dataset_name)
        things = self._metadata.thing_dataset_id_to_contiguous_id
        stuff = self._metadata.stuff_dataset_id_to_contiguous_id
        self._thing_contiguous_id_to_dataset_id = {v: k for k, v in things.items()}
        self._stuff_contiguous_id_to_dataset_id = {v: k for k, v in stuff.items()}
        self._output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        self._predictions: Any = self._new_spool(self._metadata.name)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            inputs: records with "image_id" and "file_name".
            outputs: dictionaries with "panoptic_seg", a pair of an (H, W) tensor of segment ids
                and a list of segments ("id", "category_id", "isthing"). If the list is None, ids
                are ``category * label_divisor + instance`` and -1 is void.
        """
        for record, output in zip(inputs, outputs):
            panoptic_seg, segments_info = output["panoptic_seg"]
            ids = panoptic_seg.cpu().numpy()
            if segments_info is None:
                segments_info = self._decode_segments(ids)
                ids = ids + 1  # 0 is void in the file
            name = os.path.splitext(os.path.basename(record["file_name"]))[0] + ".png"
            self._predictions.append(
                {
                    "image_id": record["image_id"],
                    "file_name": name,
                    "png_string": _as_png(ids),
                    "segments_info": [self._convert_category_id(s) for s in segments_info],
                }
            )

    def _decode_segments(self, ids: np.ndarray) -> list[dict[str, Any]]:
        things = set(self._metadata.thing_dataset_id_to_contiguous_id.values())
        segments = []
        for segment in np.unique(ids).tolist():
            if segment != _VOID:
                category = segment // self._metadata.label_divisor
                segments.append(
                    {"id": segment + 1, "category_id": category, "isthing": category in things}
                )
        return segments

    def _convert_category_id(self, segment_info: Mapping[str, Any]) -> dict[str, Any]:
        """A segment with the category id of the dataset.

        One without "isthing" has that already: models that learn ids as they are in the file.
        """
        converted = dict(segment_info)
        is_thing = converted.pop("isthing", None)
        if is_thing is not None:
            table = (
                self._thing_contiguous_id_to_dataset_id
                if is_thing
                else self._stuff_contiguous_id_to_dataset_id
            )
            converted["category_id"] = table[converted["category_id"]]
        return converted

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """``{"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", ...}}`` in percent.

        Returns:
            None on other than the main process.

        Raises:
            ValueError: an image of the ground truth has no prediction, or segments are wrong.
        """
        predictions = gather_predictions(self._predictions, distributed=True)
        if predictions is None:
            return None
        quality = self._panoptic_quality(predictions)
        self._complete(predictions)
        metrics = {
            f"{metric}{suffix}": 100 * quality[group][metric.lower()]
            for suffix, group in _GROUPS.items()
            for metric in ("PQ", "SQ", "RQ")
        }
        _print_panoptic_results(quality)
        return OrderedDict({"panoptic_seg": metrics})

    def _panoptic_quality(self, predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Results by group: "All", "Things", "Stuff", each with "pq", "sq", "rq" and "n"."""
        gt_json = PathManager.get_local_path(self._metadata.panoptic_json)
        gt_folder = PathManager.get_local_path(self._metadata.panoptic_root)
        with tempfile.TemporaryDirectory(prefix="panoptic_eval") as folder:
            logger.info(f"Writing all panoptic predictions to {folder} ...")
            annotations = []
            for prediction in predictions:
                annotation = dict(prediction)
                with open(os.path.join(folder, annotation["file_name"]), "wb") as stream:
                    stream.write(annotation.pop("png_string"))
                annotations.append(annotation)
            path = os.path.join(self._output_dir or folder, "predictions.json")
            PathManager.mkdirs(os.path.dirname(path))
            with open(gt_json, encoding="utf-8") as stream:
                content = {**json.load(stream), "annotations": annotations}
            with open_output(path) as stream:
                json.dump(content, stream)
            return _compute(gt_json, PathManager.get_local_path(path), gt_folder, folder)


def _compute(gt_json: str, predictions: str, gt_folder: str, folder: str) -> dict[str, Any]:
    from hotcoco.panoptic import PanopticEval

    # hotcoco prints its own table; ours goes to the log.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = PanopticEval(gt_json, predictions, gt_folder=gt_folder, pred_folder=folder)
        evaluation.evaluate()
        return evaluation.results()


def _as_png(ids: np.ndarray) -> bytes:
    """PNG of (H, W) segment ids, whose colours are digits to the base 256."""
    ids = ids.astype(np.uint32)
    digits = np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1)
    with io.BytesIO() as stream:
        # Ids compress well at any level, and the lowest is several times faster.
        Image.fromarray(digits.astype(np.uint8)).save(stream, format="PNG", compress_level=1)
        return stream.getvalue()


def _print_panoptic_results(pq_res: Mapping[str, Mapping[str, Any]]) -> None:
    """Log a table of PQ, SQ and RQ in percent, by group."""
    rows = [
        [
            group,
            *(pq_res[group][metric] * 100 for metric in ("pq", "sq", "rq")),
            pq_res[group]["n"],
        ]
        for group in _GROUPS.values()
    ]
    table = tabulate(
        rows,
        headers=["", "PQ", "SQ", "RQ", "#categories"],
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
    logger.info("Panoptic Evaluation Results:\n" + table)
