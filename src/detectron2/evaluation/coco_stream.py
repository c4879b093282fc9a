"""COCOeval over a stream of detections: few are matched at once, many in chunks, then forgotten."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2.evaluation.coco_at_once import (
    batch_rows,
    match_at_once,
    of_known_categories,
    report_unknown_categories,
    report_unknown_images,
)
from detectron2.evaluation.coco_loading import load_results
from detectron2.evaluation.coco_results import CocoResults, no_garbage_collection
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.evaluation.result_stream import ResultStream

__all__ = ["StreamedCOCOeval", "match_in_chunks"]

_CHUNK_DETECTIONS = 20_000
# COCO's validation images have so many. They take about 200 MB, and three quarters of the time.
_AT_ONCE_DETECTIONS = 200_000


class StreamedCOCOeval(COCOeval_opt):
    """`COCOeval_opt`, the same numbers bit by bit, without many detections in memory.

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
        with warnings.catch_warnings(), no_garbage_collection():
            # hotcoco points out settings that no leaderboard uses; here the caller chose them.
            warnings.simplefilter("ignore", UserWarning)
            match = match_at_once if self._at_once else match_in_chunks
            self._native = match(
                self.cocoGt, self._results, self.params.to_hotcoco(), self.params.imgIds
            )

    @property
    def _at_once(self) -> bool:
        few = len(self._results) <= _AT_ONCE_DETECTIONS
        return few and self.params.iouType != "keypoints"

    def in_memory(self) -> COCOeval_opt:
        """The evaluation of all detections at once, for what needs every match at hand."""
        if self._whole is None:
            detections = load_results(self.cocoGt, self._results, self.params.iouType)
            self._whole = COCOeval_opt(self.cocoGt, detections, self.params.iouType)
            self._whole.params = self.params
            self._whole.evaluate()
        return self._whole

    @property
    def evalImgs(self) -> list[dict[str, Any] | None]:
        if self._native is None or self._at_once:
            return super().evalImgs
        return self.in_memory().evalImgs


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
    stream = StreamingEval(categories, params.iouType, lvis_style, params)
    chunks = _chunks(results, coco_gt, image_ids)
    for images, truth, detections in _one_ahead(_arguments(chunks, params.iouType)):
        stream.update(images, truth, **detections)
    return stream.finalize()


def _arguments(chunks: Iterable[_Chunk], iou_type: str) -> Iterator[tuple[Any, Any, Any]]:
    """What `StreamingEval.update` is called with."""
    for chunk in chunks:
        truth = chunk.truth
        if iou_type == "bbox":  # reading polygons and run lengths takes longer than the rest
            truth = [{k: v for k, v in a.items() if k != "segmentation"} for a in truth]
        yield chunk.images, truth, _detections(chunk.detections, iou_type)


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items; the next one is made in a thread while this one is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


@dataclass(frozen=True)
class _Chunk:
    """Some images, their objects, and what was detected in them."""

    images: list[dict[str, Any]]
    truth: list[dict[str, Any]]
    detections: CocoResults


def _chunks(results: ResultStream, coco_gt: Any, image_ids: Sequence[int]) -> Iterator[_Chunk]:
    """Images in the order of their ids, some at a time."""
    predictions_of: dict[Any, list[int]] = {}
    for index, image_id in enumerate(results.image_ids):
        predictions_of.setdefault(image_id, []).append(index)
    report_unknown_images(predictions_of, coco_gt)
    unknown = 0
    images: list[int] = []
    indices: list[int] = []
    count = 0
    in_order = sorted(set(image_ids))
    for number, image_id in enumerate(in_order, start=1):
        images.append(image_id)
        mine = predictions_of.get(image_id, [])
        indices += mine
        count += sum(results.length_of(index) for index in mine)
        if count >= _CHUNK_DETECTIONS or number == len(in_order):
            part = results.joined(indices)
            known = of_known_categories(part, coco_gt)
            unknown += len(part) - len(known)
            yield _Chunk(
                coco_gt.loadImgs(images),
                coco_gt.loadAnns(coco_gt.getAnnIds(imgIds=images)),
                known,
            )
            images, indices, count = [], [], 0
    report_unknown_categories(unknown)


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
