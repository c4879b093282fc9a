"""Which detections count, where a protocol limits their number."""

from __future__ import annotations

import numpy as np

from detectron2.evaluation.coco_results import CocoResults
from detectron2.evaluation.result_stream import ResultStream

__all__ = ["NO_LIMIT", "best_of_each_category", "highest_of_each_image"]

NO_LIMIT = -1
DETECTIONS_PER_CATEGORY = 10_000  # of LVIS' "fixed AP"


def highest_of_each_image(results: CocoResults, limit: int) -> CocoResults:
    """The `limit` detections of each image that score highest, in their order; ties: the first."""
    if len(results) <= limit:
        return results
    return results.selected(_is_among_highest(results.scores, results.image_ids, limit))


def best_of_each_category(
    results: ResultStream, limit: int = DETECTIONS_PER_CATEGORY
) -> ResultStream:
    """The `limit` detections of each category that score highest in all images; ties: the first.

    Only scores and categories of all detections are in memory.
    """
    scores, categories = [], []
    for index in range(len(results.image_ids)):
        part = results.part(index)
        scores.append(part.scores.astype(np.float32))
        categories.append(part.category_ids.astype(np.int32))
    return results.filtered(
        _is_among_highest(np.concatenate(scores), np.concatenate(categories), limit)
    )


def _is_among_highest(scores: np.ndarray, groups: np.ndarray, limit: int) -> np.ndarray:
    """(N,) True for the `limit` highest scores of each group; of equal ones the first."""
    order = np.lexsort((-scores, groups))  # stable
    _, first = np.unique(groups[order], return_index=True)
    rank = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[rank < limit]] = True
    return chosen
