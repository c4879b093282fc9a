"""The page of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation.analysis.diagnosis import IOU, Diagnosis
from detectron2.evaluation.analysis.pictures import COLORS, draw_images
from detectron2.evaluation.analysis.run import EvaluatedRun
from detectron2.utils.html import Bar, Page, Series, bar_chart, heatmap, line_chart

__all__ = ["ERRORS", "report_page", "task_name"]

_PICTURES = 12
_NAMES_IN_HEATMAP = 24
_CONFUSIONS = 40
_WEAK_CLASSES = 5
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
ERRORS = {
    "Cls": "wrong class",
    "Loc": "badly placed",
    "Both": "class and place",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "not found",
}


def task_name(task: str) -> str:
    return {"bbox": "boxes", "segm": "masks"}.get(task, task)


def report_page(
    run: EvaluatedRun, diagnoses: Mapping[str, Diagnosis], image_root: str, subtitle: str
) -> Page:
    """The page; what is shown once is of the last task, masks where there are any."""
    task, main = list(diagnoses.items())[-1]
    page = Page(
        f"Evaluation: {run.name}",
        subtitle
        or f"{len(run.images):,} images, {len(run.objects):,} objects, "
        f"{len(run.results):,} detections",
    )
    page.contents()
    page.cards(_key_numbers(diagnoses))
    _metrics(page, diagnoses)
    _curves(page, main)
    _errors(page, diagnoses)
    _classes(page, diagnoses)
    _breakdowns(page, main)
    _confusion(page, main)
    _calibration(page, main)
    _pictures(page, run, main, image_root)
    _suspects(page, main)
    return page


def _key_numbers(diagnoses: Mapping[str, Diagnosis]) -> dict[str, str]:
    cards = {}
    for task, diagnosis in diagnoses.items():
        cards[f"AP of {task_name(task)}"] = _number(diagnosis.metrics["AP"])
        cards[f"AP50 of {task_name(task)}"] = _number(diagnosis.metrics["AP50"])
    task, main = list(diagnoses.items())[-1]
    cards[f"best F1 of {task_name(task)}, percent"] = _number(main.best["F1"])
    cards["score to cut at for it"] = f"{main.best['threshold']:.2f}"
    cards["calibration error, percent"] = _number(100 * main.calibration["ece"])
    return cards


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"


def _metrics(page: Page, diagnoses: Mapping[str, Diagnosis]) -> None:
    page.heading("Metrics")
    page.paragraph(
        "COCO's metrics in percent: average precision (AP) over IoU 0.5 to 0.95, at 0.5 and at "
        "0.75, of small, medium and large objects, and average recall (AR) of 1, 10 and 100 "
        "detections per image."
    )
    page.table(
        ("", *_METRICS),
        [
            (task_name(task), *(diagnosis.metrics[name] for name in _METRICS))
            for task, diagnosis in diagnoses.items()
        ],
    )


def _curves(page: Page, diagnosis: Diagnosis) -> None:
    curves, best = diagnosis.curves, diagnosis.best
    page.heading("Precision, recall and the score to cut at")
    page.paragraph(
        "Above, precision at each recall, the mean over classes, and what happens if only "
        "detections from a score on are taken, over all classes; below, the same of the classes "
        f"whose AP50 is lowest. At IoU {IOU}, F1 is highest, "
        f"{_number(best['F1'])} %, from {best['threshold']:.2f} on: {_number(best['precision'])} % "
        f"of what is taken is right, and {_number(best['recall'])} % of the objects are found."
    )
    charts = []
    lines = [Series(n, curves["recall"], v) for n, v in curves.items() if n.startswith("IoU")]
    if _any_number(lines):
        charts.append(line_chart("Precision at recall", lines, "recall, percent"))
    names = {"F1": "F1", "precision at": "precision", "recall at": "recall"}
    lines = [Series(label, curves["threshold"], curves[name]) for name, label in names.items()]
    if _any_number(lines):
        mark = (best["threshold"], f"{best['threshold']:.2f}")
        charts.append(line_chart("By score", lines, "lowest score that is taken", mark))
    weak = _weakest(diagnosis)
    lines = [Series(name, curves["recall"], diagnosis.class_curves[name]) for name in weak]
    if lines:
        charts.append(line_chart("The weakest classes, IoU 0.50", lines, "recall, percent"))
    lines = [Series(name, curves["threshold"], diagnosis.class_f1[name]) for name in weak]
    if _any_number(lines):
        charts.append(line_chart("Their F1 by score", lines, "lowest score that is taken"))
    page.drawings(charts)


def _weakest(diagnosis: Diagnosis) -> list[str]:
    """The classes whose AP50 is lowest."""
    rows = [row for row in diagnosis.classes if row["AP50"] == row["AP50"]]
    return [row["class"] for row in sorted(rows, key=lambda row: row["AP50"])[:_WEAK_CLASSES]]


def _any_number(lines: Sequence[Series]) -> bool:
    return any(y == y for line in lines for y in line.y)


def _errors(page: Page, diagnoses: Mapping[str, Diagnosis]) -> None:
    page.heading("What goes wrong")
    page.paragraph(
        "AP50 that would be won if one type of error vanished (TIDE, Bolya et al., 2020), and how "
        "often it occurs. A long bar is where work pays."
    )
    page.drawings(
        bar_chart(
            f"Errors of {task_name(task)}",
            [
                Bar(ERRORS[kind], [e["AP50 lost"]], f"{e['AP50 lost']:.1f} · {e['count']:,}×")
                for kind, e in diagnosis.tide.items()
            ],
        )
        for task, diagnosis in diagnoses.items()
    )


def _classes(page: Page, diagnoses: Mapping[str, Diagnosis]) -> None:
    page.heading("Classes")
    page.paragraph(
        "Click on a column to sort by it. “At score” is where F1 of the class is highest; "
        "precision and recall are those from there on. ECE is the calibration error. In percent."
    )
    task, main = list(diagnoses.items())[-1]
    own = ("AP", "AP50", "AP75")
    others = [(t, d) for t, d in diagnoses.items() if t != task]
    rest = [name for name in main.classes[0] if name not in ("class", *own)] if main.classes else []
    header = [
        "class",
        *(f"{name} {task_name(task)}" for name in own),
        *(f"{name} {task_name(t)}" for t, _ in others for name in own[:2]),
        *rest,
    ]
    rows = [
        [
            row["class"],
            *(row[name] for name in own),
            *(d.classes[index][name] for _, d in others for name in own[:2]),
            *(row[name] for name in rest),
        ]
        for index, row in enumerate(main.classes)
    ]
    page.sortable_table(header, rows)


def _breakdowns(page: Page, diagnosis: Diagnosis) -> None:
    page.heading("Size and shape")
    page.paragraph(
        "By the side of a square of the object's area, and by the width of its box over the "
        "height. AP over all IoUs; recall at IoU 0.5 if every detection is taken. In percent, "
        "and the number of objects."
    )
    page.drawings(
        bar_chart(
            title,
            [Bar(row["range"], [row["AP"], row["recall"]], f"{row['objects']:,}") for row in rows],
            series=("AP", "recall"),
            largest=100,
        )
        for title, rows in (("By size", diagnosis.sizes), ("By shape", diagnosis.aspects))
    )


def _confusion(page: Page, diagnosis: Diagnosis) -> None:
    names = [*diagnosis.confusion["names"], "background"]
    matrix = diagnosis.confusion["matrix"]
    page.heading("Confusion")
    kept = _most_confused(matrix)
    which = "" if len(kept) == len(names) else f" The {len(kept) - 1} classes with most errors."
    page.paragraph(
        f"Rows are what is there, columns what is predicted, at IoU {IOU} and the best score. "
        "“Background” as a row is a false alarm, as a column an object that is not found." + which
    )
    chosen = [names[i] for i in kept]
    page.drawing(heatmap(chosen, chosen, [[matrix[i][j] for j in kept] for i in kept]))
    pairs = [
        (names[i], names[j], matrix[i][j], 100 * matrix[i][j] / sum(matrix[i]))
        for i in range(len(names) - 1)
        for j in range(len(names) - 1)
        if i != j and matrix[i][j]
    ]
    if pairs:
        pairs.sort(key=lambda pair: -pair[2])
        page.paragraph("Classes that are taken for one another most often:")
        page.sortable_table(("is", "taken for", "times", "percent of it"), pairs[:_CONFUSIONS])


def _most_confused(matrix: Sequence[Sequence[int]]) -> list[int]:
    """Indices of the classes that a heatmap has room for, in their order, and background."""
    size = len(matrix)
    errors = [
        sum(matrix[i]) + sum(row[i] for row in matrix) - 2 * matrix[i][i] for i in range(size - 1)
    ]
    most = sorted(range(size - 1), key=lambda i: -errors[i])[:_NAMES_IN_HEATMAP]
    return [*sorted(most), size - 1]


def _calibration(page: Page, diagnosis: Diagnosis) -> None:
    bins = [each for each in diagnosis.calibration["bins"] if each["count"]]
    page.heading("Do scores mean what they say?")
    page.paragraph(
        "Of the detections with a score near 0.8, 80 % should be right. On the diagonal they are; "
        "below it the model is too sure of itself. The expected calibration error is "
        f"{100 * diagnosis.calibration['ece']:.1f} %, the largest "
        f"{100 * diagnosis.calibration['mce']:.1f} %."
    )
    if not bins:
        return
    scores = [100 * each["avg_confidence"] for each in bins]
    right = [100 * each["avg_accuracy"] for each in bins]
    page.drawings(
        [
            line_chart(
                "Share that is right, percent",
                [
                    Series("detections", scores, right),
                    Series("as it should be", [0, 100], [0, 100]),
                ],
                "score, percent",
            ),
            bar_chart(
                "Detections by score",
                [
                    Bar(
                        f"{each['bin_lower']:.1f}–{each['bin_upper']:.1f}",
                        [each["count"]],
                        f"{each['count']:,}",
                    )
                    for each in diagnosis.calibration["bins"]
                ],
            ),
        ]
    )


def _pictures(page: Page, run: EvaluatedRun, diagnosis: Diagnosis, image_root: str) -> None:
    page.heading("Worst images")
    threshold = diagnosis.best["threshold"]
    worst = [row for row in diagnosis.images if row["wrong"] or row["missed"]]
    figures = list(
        draw_images(run, worst, diagnosis.matches, threshold, image_root, diagnosis.task, _PICTURES)
    )
    if not figures:
        page.paragraph(
            "There is no image with an error."
            if not worst
            else "The images are not at hand, so none is drawn; images.csv lists them."
        )
        return
    page.paragraph(
        f"Lowest F1 at IoU {IOU}, of the detections with a score of at least {threshold:.2f}."
    )
    page.color_key(COLORS)
    page.gallery(figures, width=460)


def _suspects(page: Page, diagnosis: Diagnosis) -> None:
    if not diagnosis.suspects:
        return
    page.heading("Annotations to check")
    page.paragraph(
        "Confident detections that the annotation contradicts: the model may be wrong, or an "
        "object was not annotated or got another class."
    )
    rows: list[list[Any]] = [list(row.values()) for row in diagnosis.suspects]
    page.sortable_table(list(diagnosis.suspects[0]), rows)
