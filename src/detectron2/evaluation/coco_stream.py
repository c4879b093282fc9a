"""COCOeval over a stream of detections: images are matched in chunks, then forgotten."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from detectron2.evaluation.coco_results import CocoResults
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.evaluation.result_stream import ResultStream

__all__ = ["StreamedCOCOeval", "batch_rows", "match_in_chunks"]

logger = logging.getLogger(__name__)

_CHUNK_DETECTIONS = 20_000


class StreamedCOCOeval(COCOeval_opt):
    """`COCOeval_opt`, the same numbers bit by bit, without all detections in memory.

    What hotcoco keeps of a detection, once its image is matched, is about 100 bytes.
    """

    def __init__(self, coco_gt: Any, results: ResultStream, iou_type: str) -> None:
        """
        Args:
            coco_gt: hotcoco.COCO of the ground truth.
            results: detections, with the ids of the ground truth.
            iou_type: "segm", "bbox" or "keypoints".
        """
        super().__init__(coco_gt, None, iou_type)
        self._results = results
        self._whole: COCOeval_opt | None = None

    def evaluate(self) -> None:
        self.params.sort()
        self._whole = None
        with warnings.catch_warnings():
            # hotcoco points out settings that no leaderboard uses; here the caller chose them.
            warnings.simplefilter("ignore", UserWarning)
            self._native = match_in_chunks(
                self.cocoGt, self._results, self.params.to_hotcoco(), self.params.imgIds
            )

    def in_memory(self) -> COCOeval_opt:
        """The evaluation of all detections at once, for what needs every match at hand."""
        from detectron2.evaluation.coco_task import load_results

        if self._whole is None:
            detections = load_results(self.cocoGt, self._results, self.params.iouType)
            self._whole = COCOeval_opt(self.cocoGt, detections, self.params.iouType)
            self._whole.params = self.params
            self._whole.evaluate()
        return self._whole

    @property
    def evalImgs(self) -> list[dict[str, Any] | None]:
        return [] if self._native is None else self.in_memory().evalImgs


def match_in_chunks(
    coco_gt: Any,
    results: ResultStream,
    params: Any,
    image_ids: Sequence[int],
    lvis_style: bool = False,
) -> Any:
    """A hotcoco.COCOeval that has matched every image, ready to accumulate.

    Args:
        coco_gt: hotcoco.COCO of the ground truth.
        results: detections. Those of unknown images or categories match nothing: they are
            left out, and the log says how many.
        params: hotcoco.Params.
        image_ids: images that count.
        lvis_style: LVIS' protocol, where not every image is annotated with every category.
    """
    from hotcoco import StreamingEval

    categories = coco_gt.loadCats(coco_gt.getCatIds())
    known = np.array(sorted(category["id"] for category in categories), dtype=np.int64)
    stream = StreamingEval(categories, params.iouType, lvis_style, params)
    unknown = 0
    for images, part in _chunks(results, coco_gt, image_ids):
        has_category = np.isin(part.category_ids, known)
        unknown += int((~has_category).sum())
        part = part if has_category.all() else part.selected(has_category)
        truth = coco_gt.loadAnns(coco_gt.getAnnIds(imgIds=images)) if images else []
        detections = _detections(part, params.iouType)
        stream.update(coco_gt.loadImgs(images), truth, **detections)
    if unknown:
        logger.warning("Left out %d detections of categories that the dataset lacks.", unknown)
    return stream.finalize()


def _chunks(
    results: ResultStream, coco_gt: Any, image_ids: Sequence[int]
) -> Iterator[tuple[list[int], CocoResults]]:
    """Images in the order of their ids, some at a time, with their detections."""
    predictions_of: dict[Any, list[int]] = {}
    for index, image_id in enumerate(results.image_ids):
        predictions_of.setdefault(image_id, []).append(index)
    strangers = set(predictions_of) - set(coco_gt.getImgIds())
    if strangers:
        logger.warning(
            "Left out the detections of %d images that the ground truth lacks, such as %r.",
            len(strangers), next(iter(strangers)),
        )  # fmt: skip
    images: list[int] = []
    indices: list[int] = []
    count = 0
    for image_id in sorted(set(image_ids)):
        images.append(image_id)
        mine = predictions_of.get(image_id, [])
        indices += mine
        count += sum(results.length_of(index) for index in mine)
        if count >= _CHUNK_DETECTIONS:
            yield images, results.joined(indices)
            images, indices, count = [], [], 0
    if images:
        yield images, results.joined(indices)


def batch_rows(results: CocoResults, boxes: np.ndarray) -> np.ndarray:
    """(N, 7) image, box, score and category, as hotcoco takes detections."""
    return np.column_stack([results.image_ids, boxes, results.scores, results.category_ids])


def _detections(part: CocoResults, iou_type: str) -> Mapping[str, Any]:
    """Arguments of `StreamingEval.update` for detections of one task."""
    if len(part) == 0:
        return {"dt_anns": []}
    if iou_type == "keypoints":
        return {"dt_anns": list(part)}
    if iou_type == "bbox":
        return {"dt_anns": batch_rows(part, part.boxes)}
    if part.mask_areas is None:
        raise ValueError("There are no masks among the predictions to evaluate 'segm' with.")
    # For masks the box only decides which range of areas a detection is in, and that range is
    # the mask's: a box of that area.
    zeros = np.zeros(len(part))
    boxes = np.column_stack([zeros, zeros, part.mask_areas, zeros + 1])
    return {"dt_anns": batch_rows(part, boxes), "segmentation": part.masks()}
