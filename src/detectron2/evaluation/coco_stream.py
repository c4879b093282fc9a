"""COCOeval over a stream of detections: images are matched in chunks, then forgotten."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2.evaluation.coco_results import CocoResults, no_garbage_collection
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.evaluation.result_stream import ResultStream

__all__ = ["StreamedCOCOeval", "batch_rows", "match_in_chunks"]

logger = logging.getLogger(__name__)

_CHUNK_DETECTIONS = 20_000
_CHUNKS_TO_KEEP = 10  # about 100 MB


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
        with warnings.catch_warnings(), no_garbage_collection():
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
    """Images in the order of their ids, some at a time.

    Of a small dataset the chunks are kept with the stream, for the next task.
    """
    key = ("chunks", id(coco_gt), tuple(image_ids))
    kept: list[_Chunk] = results.memo.get(key, [])
    if kept:
        yield from kept
        return
    room = _CHUNKS_TO_KEEP
    for number, chunk in enumerate(_read_chunks(results, coco_gt, image_ids)):
        yield chunk
        if number < room:
            kept.append(chunk)
        else:
            kept, room = [], 0
    if kept:
        results.memo[key] = kept


def _read_chunks(results: ResultStream, coco_gt: Any, image_ids: Sequence[int]) -> Iterator[_Chunk]:
    predictions_of: dict[Any, list[int]] = {}
    for index, image_id in enumerate(results.image_ids):
        predictions_of.setdefault(image_id, []).append(index)
    _report_strangers(set(predictions_of) - set(coco_gt.getImgIds()))
    known = np.array(sorted(coco_gt.getCatIds()), dtype=np.int64)
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
            has_category = np.isin(part.category_ids, known)
            unknown += len(part) - int(has_category.sum())
            yield _Chunk(
                coco_gt.loadImgs(images),
                coco_gt.loadAnns(coco_gt.getAnnIds(imgIds=images)),
                part if has_category.all() else part.selected(has_category),
            )
            images, indices, count = [], [], 0
    if unknown:
        logger.warning("Left out %d detections of categories that the dataset lacks.", unknown)


def _report_strangers(strangers: set[Any]) -> None:
    if strangers:
        logger.warning(
            "Left out the detections of %d images that the ground truth lacks, such as %r.",
            len(strangers), next(iter(strangers)),
        )  # fmt: skip


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
