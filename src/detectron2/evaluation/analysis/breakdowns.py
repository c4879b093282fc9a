"""AP and recall by the size and the shape of objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectron2.evaluation.analysis.run import EvaluatedRun
from detectron2.evaluation.analysis.score_curves import Matches
from detectron2.evaluation.coco_dataset import as_hotcoco

__all__ = ["by_aspect", "by_size"]

_ENDLESS = 1e10
# Sides in pixels of a square of the object's area. 32 and 96 are COCO's borders.
SIZES = (0, 16, 32, 64, 96, 160, 256, _ENDLESS)
# Width over height.
ASPECTS = {
    "very tall (below 1:3)": (0, 1 / 3),
    "tall (to 2:3)": (1 / 3, 2 / 3),
    "square (to 3:2)": (2 / 3, 3 / 2),
    "wide (to 3:1)": (3 / 2, 3),
    "very wide (above 3:1)": (3, _ENDLESS),
}


def by_size(
    run: EvaluatedRun, task: str, matches: Matches, threshold: float
) -> list[dict[str, Any]]:
    """A row for each range of sizes: objects, AP, recall of all detections and at `threshold`."""
    areas = {i: float(a["area"]) for i, a in run.objects.items()}
    ranges = {}
    for low, high in zip(SIZES, SIZES[1:]):
        name = f"{low}–{high} px" if high < _ENDLESS else f"above {low} px"
        ranges[name] = (float(low) ** 2, float(high) ** 2)
    if task == "segm" and run.results.mask_areas is not None:
        detected = run.results.mask_areas
    else:
        detected = run.results.boxes[:, 2] * run.results.boxes[:, 3]
    return _rows(run, task, matches, threshold, ranges, areas, detected)


def by_aspect(
    run: EvaluatedRun, task: str, matches: Matches, threshold: float
) -> list[dict[str, Any]]:
    """A row for each range of width over height of the boxes, as `by_size`."""
    aspects = {i: a["bbox"][2] / max(a["bbox"][3], 1e-6) for i, a in run.objects.items()}
    detected = run.results.boxes[:, 2] / np.maximum(run.results.boxes[:, 3], 1e-6)
    return _rows(run, task, matches, threshold, ASPECTS, aspects, detected)


def _rows(
    run: EvaluatedRun,
    task: str,
    matches: Matches,
    threshold: float,
    ranges: dict[str, tuple[float, float]],
    of_objects: dict[int, float],
    of_detections: np.ndarray,
) -> list[dict[str, Any]]:
    precision = _average_precision(run, task, list(ranges.values()), of_objects, of_detections)
    values = np.array([of_objects[i] for i in matches.objects.tolist()])
    rows = []
    for (name, (low, high)), ap in zip(ranges.items(), precision):
        found_at = matches.found_at[(values >= low) & (values < high)] if len(values) else values
        rows.append(
            {
                "range": name,
                "objects": len(found_at),
                "AP": ap,
                "recall": _share(found_at >= 0),
                "recall at best F1": _share(found_at >= threshold),
            }
        )
    return rows


def _share(flags: np.ndarray) -> float:
    return 100 * float(flags.mean()) if len(flags) else float("nan")


def _average_precision(
    run: EvaluatedRun,
    task: str,
    ranges: list[tuple[float, float]],
    of_objects: dict[int, float],
    of_detections: np.ndarray,
) -> list[float]:
    """AP in percent of each range of some property of objects and detections.

    COCO's protocol does this for areas: objects outside of the range, and unmatched detections
    outside of it, do not count. The property takes the place of the area.
    """
    from hotcoco import COCOeval

    images = run.truth.getImgIds()
    truth = as_hotcoco(run.truth).filter(img_ids=images, drop_empty_images=False)
    if of_objects:
        truth.update_anns(ids=list(of_objects), area=list(of_objects.values()))
    detections = run.detections(task)
    detections.update_anns(ids=np.arange(1, len(of_detections) + 1), area=of_detections)
    evaluation = COCOeval(truth, detections, task)
    params = evaluation.params
    # The first range is all: that is what a COCOeval puts there.
    params.areaRng = [[0, _ENDLESS], *([low, high] for low, high in ranges)]
    params.areaRngLbl = ["all", *(str(number) for number in range(len(ranges)))]
    evaluation.evaluate()
    evaluation.accumulate()
    by_range = evaluation.eval["precision"][:, :, :, 1:, -1]  # (T, R, K, A)
    rows = [by_range[..., index] for index in range(len(ranges))]
    return [100 * float(v[v > -1].mean()) if (v > -1).any() else float("nan") for v in rows]
