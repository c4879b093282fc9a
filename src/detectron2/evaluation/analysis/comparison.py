"""Two runs over the same data: what became better, what became worse, and is it chance."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from detectron2.evaluation.analysis.diagnosis import IOU, Diagnosis, diagnose
from detectron2.evaluation.analysis.run import EvaluatedRun

__all__ = ["Comparison", "compare"]

BOOTSTRAP = 200  # resampled sets of images that the intervals come from


@dataclass
class Comparison:
    """Metrics in percent; differences are B minus A, in points.

    Attributes:
        task: "bbox" or "segm".
        names: of A and B.
        metrics: a row for each metric: A, B, difference, and the 95 % interval of it.
        classes: a row for each category, the largest losses first.
        tide: a row for each type of error.
        images: a row for each image whose F1 differs, the largest losses first.
        a, b: the diagnoses.
    """

    task: str
    names: tuple[str, str]
    metrics: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    tide: list[dict[str, Any]]
    images: list[dict[str, Any]]
    a: Diagnosis
    b: Diagnosis


def compare(a: EvaluatedRun, b: EvaluatedRun, task: str = "bbox") -> Comparison:
    """Compare run `b` with run `a`.

    Raises:
        ValueError: the runs are not over the same images and objects.
    """
    if a.images.keys() != b.images.keys() or a.objects.keys() != b.objects.keys():
        raise ValueError(
            f"{a.name!r} and {b.name!r} were evaluated on different data: "
            f"{len(a.images)} images with {len(a.objects)} objects against "
            f"{len(b.images)} with {len(b.objects)}."
        )
    first, second = diagnose(a, task), diagnose(b, task)
    return Comparison(
        task,
        (a.name, b.name),
        _metrics(a, b, task),
        _classes(first, second),
        _tide(first, second),
        _images(first, second),
        first,
        second,
    )


def _metrics(a: EvaluatedRun, b: EvaluatedRun, task: str) -> list[dict[str, Any]]:
    import hotcoco

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = hotcoco.compare(a.evaluated(task), b.evaluated(task), n_bootstrap=BOOTSTRAP)
    rows = []
    for name in result["metric_keys"]:
        before, after = result["metrics_a"][name], result["metrics_b"][name]
        known = before >= 0 and after >= 0
        interval = (result["ci"] or {}).get(name) or {}
        low, high = interval.get("lower", float("nan")), interval.get("upper", float("nan"))
        rows.append(
            {
                "metric": name,
                "A": 100 * before if before >= 0 else float("nan"),
                "B": 100 * after if after >= 0 else float("nan"),
                "difference": 100 * (after - before) if known else float("nan"),
                "from": 100 * low if known else float("nan"),
                "to": 100 * high if known else float("nan"),
                "beyond chance": "yes" if known and (low > 0 or high < 0) else "no",
            }
        )
    return rows


def _classes(a: Diagnosis, b: Diagnosis) -> list[dict[str, Any]]:
    rows = [
        {
            "class": one["class"],
            "objects": one["objects"],
            "AP A": one["AP"],
            "AP B": two["AP"],
            "difference": two["AP"] - one["AP"],
            "best F1 A": one["best F1"],
            "best F1 B": two["best F1"],
        }
        for one, two in zip(a.classes, b.classes)
    ]
    return sorted(rows, key=lambda row: (row["difference"] != row["difference"], row["difference"]))


def _tide(a: Diagnosis, b: Diagnosis) -> list[dict[str, Any]]:
    return [
        {
            "error": kind,
            "AP50 lost A": a.tide[kind]["AP50 lost"],
            "AP50 lost B": b.tide[kind]["AP50 lost"],
            "count A": a.tide[kind]["count"],
            "count B": b.tide[kind]["count"],
        }
        for kind in a.tide
    ]


def _images(a: Diagnosis, b: Diagnosis) -> list[dict[str, Any]]:
    """F1 of each image, of A and B at their own best thresholds, where it differs."""
    before = {row["id"]: row for row in a.images}
    rows = [
        {
            "image": row["image"],
            "file": row["file"],
            f"F1 A (IoU {IOU})": before[row["id"]]["F1"],
            f"F1 B (IoU {IOU})": row["F1"],
            "difference": row["F1"] - before[row["id"]]["F1"],
            "id": row["id"],
        }
        for row in b.images
        if row["F1"] != before[row["id"]]["F1"]
    ]
    return sorted(rows, key=lambda row: row["difference"])
