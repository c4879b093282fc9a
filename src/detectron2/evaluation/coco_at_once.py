"""Few detections, matched all at once: boxes and masks are handed to hotcoco one time."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2.evaluation.coco_results import CocoResults, no_garbage_collection
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


@dataclass(frozen=True)
class _Loaded:
    """Detections in hotcoco.

    Reading run lengths takes as long as scoring boxes, and is done meanwhile.
    """

    boxes: Any
    masks: Future[Any] | None

    def for_task(self, task: str) -> Any:
        """The hotcoco.COCO with the areas that count for the task: of the boxes or the masks."""
        if task == "bbox":
            return self.boxes
        if self.masks is None:
            raise ValueError("There are no masks among the predictions to evaluate 'segm' with.")
        return self.masks.result()


def _load(coco_gt: Any, results: ResultStream, image_ids: Iterable[int]) -> _Loaded:
    report_unknown_images(results.image_ids, coco_gt)
    counting = set(image_ids)
    part = results.joined([i for i, image in enumerate(results.image_ids) if image in counting])
    chosen = of_known_categories(part, coco_gt)
    report_unknown_categories(len(part) - len(chosen))
    rows = batch_rows(chosen, chosen.boxes)
    boxes = coco_gt.loadRes(rows)
    if chosen.mask_counts is None:
        return _Loaded(boxes, None)
    pool = ThreadPoolExecutor(1)
    masks = pool.submit(_with_masks, coco_gt, chosen, rows)
    pool.shutdown(wait=False)
    return _Loaded(boxes, masks)


def _with_masks(coco_gt: Any, results: CocoResults, rows: np.ndarray) -> Any:
    with no_garbage_collection():
        loaded = coco_gt.loadRes(rows, segmentation=results.masks())
    # loadRes numbers detections from 1.
    loaded.update_anns(ids=np.arange(1, len(results) + 1), area=results.mask_areas)
    return loaded


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
