"""What one run gets right and wrong, in numbers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detectron2.evaluation.analysis.breakdowns import by_aspect, by_size
from detectron2.evaluation.analysis.run import EvaluatedRun
from detectron2.evaluation.analysis.score_curves import Matches, best_threshold, f1_curves

__all__ = ["Diagnosis", "diagnose"]

IOU = 0.5  # from which overlap on a detection is right, in everything but AP
CALIBRATION_BINS = 10
SUSPECTS = 50  # annotations that may be wrong to list


@dataclass
class Diagnosis:
    """What is known of one task. Metrics are in percent, NaN where there is nothing to measure.

    Attributes:
        metrics: the COCO table: AP, AP50, ..., AR100.
        classes: a row for each category.
        curves: "recall" (R,) with precision by IoU (R,), and "threshold" (T,) with F1,
            precision and recall over all categories (T,).
        class_curves: precision (R,) of each class at the recalls of "recall", at IoU 0.5.
        class_f1: F1 (T,) of each class at the scores of "threshold".
        best: score above which F1 over all categories is highest, with F1, precision, recall.
        confusion: "names" of K categories and "matrix" (K + 1, K + 1) of counts at `best`;
            rows are what is there, columns what is predicted, the last of each is background.
        tide: AP50 that each type of error costs, and how often it occurs.
        sizes, aspects: a row for each range of the size and shape of objects.
        calibration: expected error "ece" and "bins".
        images: a row for each image with its errors at `best`, the worst first.
        suspects: confident detections where the annotation may be wrong.
    """

    task: str
    metrics: dict[str, float]
    classes: list[dict[str, Any]]
    curves: dict[str, list[float]]
    class_curves: dict[str, list[float]]
    class_f1: dict[str, list[float]]
    best: dict[str, float]
    confusion: dict[str, Any]
    tide: dict[str, dict[str, float]]
    sizes: list[dict[str, Any]]
    aspects: list[dict[str, Any]]
    calibration: dict[str, Any]
    images: list[dict[str, Any]] = field(repr=False)
    suspects: list[dict[str, Any]] = field(repr=False)
    matches: Matches = field(repr=False)


def diagnose(run: EvaluatedRun, task: str = "bbox") -> Diagnosis:
    """Look into the detections of a run.

    Args:
        task: "bbox" or "segm".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # settings that no leaderboard uses
        evaluation = run.evaluated(task)
        details = evaluation.image_diagnostics(IOU, score_thr=0.5)
        matches = Matches.of(run, details)
        best = best_threshold(matches)
        calibration = evaluation.calibration(CALIBRATION_BINS, IOU)
        confusion = evaluation.confusion_matrix(IOU, min_score=best["threshold"])
        return Diagnosis(
            task=task,
            metrics=_percent(evaluation.get_results()),
            classes=_classes(run, evaluation, matches, calibration["per_category"]),
            curves={**_precision_curves(evaluation), **f1_curves(matches)},
            class_curves=_class_curves(run, evaluation),
            class_f1={
                name: f1_curves(matches.of_category(category))["F1"]
                for category, name in run.categories.items()
            },
            best=best,
            confusion={
                "names": list(confusion["cat_names"]),
                "matrix": confusion["matrix"].astype(int).tolist(),
            },
            tide=_tide(evaluation),
            sizes=by_size(run, task, matches, best["threshold"]),
            aspects=by_aspect(run, task, matches, best["threshold"]),
            calibration={key: calibration[key] for key in ("ece", "mce", "bins")},
            images=_images(run, matches, best["threshold"]),
            suspects=_suspects(run, details["label_errors"]),
            matches=matches,
        )


def _percent(metrics: dict[str, float]) -> dict[str, float]:
    return {name: 100 * v if v >= 0 else float("nan") for name, v in metrics.items()}


def _classes(
    run: EvaluatedRun, evaluation: Any, matches: Matches, calibration: dict[str, float]
) -> list[dict[str, Any]]:
    precision = evaluation.eval["precision"]  # (T, R, K, A, M)
    recall = evaluation.eval["recall"]  # (T, K, A, M)
    thresholds = np.round(evaluation.params.iouThrs, 2).tolist()
    rows = []
    for index, (category, name) in enumerate(run.categories.items()):
        best = best_threshold(matches.of_category(category))
        rows.append(
            {
                "class": name,
                "objects": int((matches.object_categories == category).sum()),
                "detections": int((matches.categories == category).sum()),
                "AP": _mean(precision[:, :, index, 0, -1]),
                "AP50": _mean(precision[thresholds.index(0.5), :, index, 0, -1]),
                "AP75": _mean(precision[thresholds.index(0.75), :, index, 0, -1]),
                "AR": _mean(recall[:, index, 0, -1]),
                "best F1": best["F1"],
                "at score": best["threshold"],
                "precision": best["precision"],
                "recall": best["recall"],
                "ECE": 100 * calibration.get(name, float("nan")),
            }
        )
    return rows


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return 100 * float(valid.mean()) if valid.size else float("nan")


def _precision_curves(evaluation: Any) -> dict[str, list[float]]:
    """Precision at each recall, the mean over categories, in percent."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (T, R, K)
    occurs = (precision > -1).any(axis=(0, 1))
    thresholds = np.round(evaluation.params.iouThrs, 2).tolist()
    curves = {"recall": [100 * r for r in evaluation.params.recThrs]}
    for iou in (0.5, 0.75, 0.9):
        values = precision[thresholds.index(iou)][:, occurs]
        mean = values.mean(axis=1) if occurs.any() else np.full(len(values), np.nan)
        curves[f"IoU {iou:.2f}"] = (100 * mean).tolist()
    return curves


def _class_curves(run: EvaluatedRun, evaluation: Any) -> dict[str, list[float]]:
    at = np.round(evaluation.params.iouThrs, 2).tolist().index(IOU)
    precision = evaluation.eval["precision"][at, :, :, 0, -1]  # (R, K)
    percent = np.where(precision > -1, 100 * precision, np.nan)
    return {name: percent[:, i].tolist() for i, name in enumerate(run.categories.values())}


def _tide(evaluation: Any) -> dict[str, dict[str, float]]:
    errors = evaluation.tide_errors(IOU, 0.1)
    return {
        kind: {"AP50 lost": 100 * errors["delta_ap"][kind], "count": errors["counts"][kind]}
        for kind in ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
    }


def _images(run: EvaluatedRun, matches: Matches, threshold: float) -> list[dict[str, Any]]:
    counts = matches.counts_of_images(threshold)
    rows = [
        {
            "image": run.original_ids[image] if run.original_ids else image,
            "file": record.get("file_name", ""),
            "right": counts[image][0],
            "wrong": counts[image][1],
            "missed": counts[image][2],
            "F1": _f1(*counts[image]),
            "id": image,
        }
        for image, record in run.images.items()
    ]
    return sorted(rows, key=lambda row: (row["F1"], -row["wrong"] - row["missed"]))


def _f1(right: int, wrong: int, missed: int) -> float:
    everything = 2 * right + wrong + missed
    return 100 * 2 * right / everything if everything else 100.0


def _suspects(run: EvaluatedRun, errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = {"missing_annotation": "not annotated?", "wrong_label": "other class?"}
    return [
        {
            "image": run.images[error["image_id"]].get("file_name", error["image_id"]),
            "suspicion": kinds.get(error["type"], error["type"]),
            "predicted": error["dt_category"],
            "annotated": error["gt_category"] or "–",
            "score": error["dt_score"],
            "IoU": error["iou"],
        }
        for error in errors[:SUSPECTS]
    ]
