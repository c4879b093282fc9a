"""A report in a folder: one HTML page, JSON for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation.analysis.comparison import Comparison
from detectron2.evaluation.analysis.comparison_page import comparison_page
from detectron2.evaluation.analysis.diagnosis import Diagnosis, diagnose
from detectron2.evaluation.analysis.page import report_page
from detectron2.evaluation.analysis.run import DETECTIONS_FILE, SUMMARY_FILE, EvaluatedRun
from detectron2.evaluation.output_files import write_json_list
from detectron2.utils.files import atomic_write_text
from detectron2.utils.html import Page

__all__ = ["write_comparison", "write_metrics", "write_report"]

_LARGE = (
    "images",
    "matches",
    "class_curves",
    "class_f1",
)  # of a diagnosis; in a CSV file of their own, or not at all


def write_report(
    run: EvaluatedRun, folder: str | Path, image_root: str = "", subtitle: str = ""
) -> Path:
    """Look into a run and write what is found.

    `folder` gets report.html, summary.json, detections.json and, for each task, classes, curves
    (also of each class), confusion, sizes, aspects and images as CSV.

    Args:
        image_root: folder of the images, by default the one that the run knows; those that are
            not there are not drawn.
        subtitle: what was evaluated, in words.

    Returns:
        The page.
    """
    folder = Path(folder)
    image_root = image_root or run.image_root
    diagnoses = {task: diagnose(run, task) for task in run.tasks}
    write_json_list(str(folder / DETECTIONS_FILE), run_results(run))
    summary = {
        "name": run.name,
        "ground_truth": run.ground_truth_file,
        "image_root": str(Path(image_root).resolve()) if image_root else "",
        "images": len(run.images),
        "objects": len(run.objects),
        "detections": len(run.results),
        "tasks": {task: _summary(diagnosis) for task, diagnosis in diagnoses.items()},
    }
    _write_json(folder / SUMMARY_FILE, summary)
    for task, diagnosis in diagnoses.items():
        for name, rows in _tables(diagnosis).items():
            _write_csv(folder / f"{task}_{name}.csv", rows)
    return report_page(run, diagnoses, image_root, subtitle).write(folder / "report.html")


def write_metrics(metrics: Mapping[str, Any], name: str, folder: str | Path) -> Path:
    """The same for evaluations that there is no analysis of: report.html and summary.json."""
    folder = Path(folder)
    page = Page(f"Evaluation: {name}", "Metrics only: there are no COCO detections to look into.")
    for task, values in metrics.items():
        page.heading(task)
        numbers = values if isinstance(values, Mapping) else {task: values}
        page.sortable_table(("metric", "value"), list(numbers.items()))
    _write_json(folder / SUMMARY_FILE, {"name": name, "metrics": metrics})
    return page.write(folder / "report.html")


def run_results(run: EvaluatedRun) -> Iterable[dict[str, Any]]:
    """Detections with the image ids that the file of the ground truth has."""
    ids = run.original_ids
    for result in run.results:
        yield result if ids is None else {**result, "image_id": ids[result["image_id"]]}


def write_comparison(
    comparison: Comparison,
    runs: tuple[EvaluatedRun, EvaluatedRun],
    folder: str | Path,
    image_root: str = "",
) -> Path:
    """Write compare.html, compare.json, and metrics, classes, errors and images as CSV.

    Returns:
        The page.
    """
    folder = Path(folder)
    tables = {
        "metrics": comparison.metrics,
        "classes": comparison.classes,
        "errors": comparison.tide,
        "images": comparison.images,
    }
    content = {"task": comparison.task, "a": runs[0].name, "b": runs[1].name, **tables}
    _write_json(folder / "compare.json", content)
    for name, rows in tables.items():
        _write_csv(folder / f"compare_{name}.csv", rows)
    return comparison_page(comparison, runs, image_root).write(folder / "compare.html")


def _summary(diagnosis: Diagnosis) -> dict[str, Any]:
    fields = {name: value for name, value in vars(diagnosis).items() if name not in _LARGE}
    return {**fields, "worst_images": diagnosis.images[:50]}


def _tables(diagnosis: Diagnosis) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    names = [*diagnosis.confusion["names"], "background"]
    curves = diagnosis.curves
    recall = [name for name in curves if name == "recall" or name.startswith("IoU")]
    scores = [name for name in curves if name not in recall]
    return {
        "classes": diagnosis.classes,
        "precision_recall": _rows_of({name: curves[name] for name in recall}),
        "class_curves": _rows_of({"recall": curves["recall"], **diagnosis.class_curves}),
        "class_f1": _rows_of({"score": curves["threshold"], **diagnosis.class_f1}),
        "scores": _rows_of({name: curves[name] for name in scores}),
        "confusion": [
            {"true class": name, **dict(zip(names, counts))}
            for name, counts in zip(names, diagnosis.confusion["matrix"])
        ],
        "sizes": diagnosis.sizes,
        "aspects": diagnosis.aspects,
        "images": diagnosis.images,
    }


def _rows_of(columns: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    return [dict(zip(columns, row)) for row in zip(*columns.values(), strict=True)]


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table; numbers that there are none of stay empty."""
    text = io.StringIO(newline="")
    names = [name for name in (rows[0] if rows else ()) if name != "id"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if row[name] != row[name] else row[name] for name in names})
    atomic_write_text(path, text.getvalue())


def _write_json(path: Path, content: Any) -> None:
    """JSON that every reader takes: NaN becomes null."""
    atomic_write_text(path, json.dumps(_without_nan(content), indent=1))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
