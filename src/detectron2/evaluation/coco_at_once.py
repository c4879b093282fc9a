"""Few detections, matched all at once: boxes and masks are handed to hotcoco one time."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2.evaluation.coco_results import CocoResults
from detectron2.evaluation.result_stream import ResultStream

__all__ = [
    "batch_rows",
    "match_at_once",
    "of_known_categories",
    "report_unknown_categories",
    "report_unknown_images",
]

logger = logging.getLogger(__name__)


def match_at_once(
    coco_gt: Any, results: ResultStream, params: Any, image_ids: Sequence[int]
) -> Any:
    """A hotcoco.COCOeval that has matched every image, ready to accumulate.

    Args:
        coco_gt: hotcoco.COCO of the ground truth.
        results: detections. Those of unknown images or categories match nothing: they are
            left out, and the log says how many.
        params: hotcoco.Params of "bbox" or "segm".
        image_ids: images that count.
    """
    from hotcoco import COCOeval

    key = ("loaded", id(coco_gt), tuple(image_ids))
    loaded = results.memo.get(key)
    if loaded is None:
        loaded = results.memo[key] = _load(coco_gt, results, image_ids)
    evaluation = COCOeval(coco_gt, loaded.for_task(params.iouType), params.iouType)
    evaluation.params = params
    evaluation.evaluate()
    return evaluation


@dataclass
class _Loaded:
    """Detections with everything that any task reads.

    coco: hotcoco.COCO of `results`, with the areas of `task`.
    """

    results: CocoResults
    coco: Any
    task: str = "bbox"

    def for_task(self, task: str) -> Any:
        """The COCO object, with the area of the boxes or of the masks in each detection."""
        if task != self.task:
            boxes = self.results.boxes
            areas = boxes[:, 2] * boxes[:, 3] if task == "bbox" else self._mask_areas()
            # loadRes numbers detections from 1.
            self.coco.update_anns(ids=np.arange(1, len(areas) + 1), area=areas)
            self.task = task
        return self.coco

    def _mask_areas(self) -> np.ndarray:
        if self.results.mask_areas is None:
            raise ValueError("There are no masks among the predictions to evaluate 'segm' with.")
        return self.results.mask_areas


def _load(coco_gt: Any, results: ResultStream, image_ids: Iterable[int]) -> _Loaded:
    report_unknown_images(results.image_ids, coco_gt)
    counting = set(image_ids)
    part = results.joined([i for i, image in enumerate(results.image_ids) if image in counting])
    chosen = of_known_categories(part, coco_gt)
    report_unknown_categories(len(part) - len(chosen))
    rows = batch_rows(chosen, chosen.boxes)
    masks = None if chosen.mask_counts is None else chosen.masks()
    return _Loaded(chosen, coco_gt.loadRes(rows, segmentation=masks))


def batch_rows(results: CocoResults, boxes: np.ndarray) -> np.ndarray:
    """(N, 7) image, box, score and category, as hotcoco takes detections."""
    return np.column_stack([results.image_ids, boxes, results.scores, results.category_ids])


def of_known_categories(part: CocoResults, coco_gt: Any) -> CocoResults:
    """The detections of categories that the ground truth has."""
    known = np.isin(part.category_ids, np.array(coco_gt.getCatIds(), dtype=np.int64))
    return part if known.all() else part.selected(known)


def report_unknown_categories(count: int) -> None:
    if count:
        logger.warning("Left out %d detections of categories that the dataset lacks.", count)


def report_unknown_images(image_ids: Iterable[Hashable], coco_gt: Any) -> None:
    strangers = set(image_ids) - set(coco_gt.getImgIds())
    if strangers:
        logger.warning(
            "Left out the detections of %d images that the ground truth lacks, such as %r.",
            len(strangers), next(iter(strangers)),
        )  # fmt: skip
