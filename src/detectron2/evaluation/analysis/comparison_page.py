"""The page of a comparison."""

from __future__ import annotations

from detectron2.evaluation.analysis.comparison import Comparison
from detectron2.evaluation.analysis.page import ERRORS, task_name
from detectron2.evaluation.analysis.pictures import COLORS, draw_images
from detectron2.evaluation.analysis.run import EvaluatedRun
from detectron2.utils.html import Bar, Page, Series, bar_chart, line_chart

__all__ = ["comparison_page"]

_PICTURES = 6


def comparison_page(
    comparison: Comparison, runs: tuple[EvaluatedRun, EvaluatedRun], image_root: str
) -> Page:
    a, b = comparison.names
    page = Page(
        f"{b} against {a}",
        f"A is {a}, B is {b}; {task_name(comparison.task)} on {len(runs[0].images):,} images. "
        "Differences are B minus A, in points.",
    )
    page.contents()
    page.cards(
        {
            f"{row['metric']}: {_number(row['A'])} → {_number(row['B'])}": _signed(
                row["difference"]
            )
            for row in comparison.metrics[:6]
        }
    )
    _metrics(page, comparison)
    _curves(page, comparison)
    _errors(page, comparison)
    page.heading("Classes")
    page.paragraph("What became worse comes first; click on a column to sort by it.")
    _table(page, comparison.classes)
    _images(page, comparison, runs, image_root)
    return page


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"


def _signed(value: float) -> str:
    return "–" if value != value else f"{value:+.1f}".replace("-", "−")


def _table(page: Page, rows: list[dict]) -> None:
    if rows:
        header = [name for name in rows[0] if name != "id"]
        page.sortable_table(
            header, [[row[name] for name in header] for row in rows], signed=("difference",)
        )


def _metrics(page: Page, comparison: Comparison) -> None:
    page.heading("Metrics")
    page.paragraph(
        "“From” and “to” hold the difference with 95 % confidence, if the images are a sample of "
        "all there could be (bootstrap over images). If 0 lies between, it may be chance."
    )
    _table(page, comparison.metrics)


def _curves(page: Page, comparison: Comparison) -> None:
    page.heading("Curves")
    a, b = comparison.a.curves, comparison.b.curves
    charts = []
    for title, x, y, label in (
        ("Precision at recall, IoU 0.50", "recall", "IoU 0.50", "recall, percent"),
        ("Precision at recall, IoU 0.75", "recall", "IoU 0.75", "recall, percent"),
        ("F1 by score", "threshold", "F1", "lowest score that is taken"),
    ):
        lines = [Series("A", a[x], a[y]), Series("B", b[x], b[y])]
        if any(v == v for line in lines for v in line.y):
            charts.append(line_chart(title, lines, label))
    page.drawings(charts)


def _errors(page: Page, comparison: Comparison) -> None:
    page.heading("What goes wrong")
    page.paragraph("AP50 that each type of error costs; shorter is better.")
    page.drawings(
        [
            bar_chart(
                "AP50 lost",
                [
                    Bar(
                        ERRORS[row["error"]],
                        [row["AP50 lost A"], row["AP50 lost B"]],
                        f"{row['AP50 lost A']:.1f} → {row['AP50 lost B']:.1f}",
                    )
                    for row in comparison.tide
                ],
                series=("A", "B"),
            )
        ]
    )


def _images(
    page: Page,
    comparison: Comparison,
    runs: tuple[EvaluatedRun, EvaluatedRun],
    image_root: str,
) -> None:
    page.heading("Images that became worse")
    worse = [row for row in comparison.images if row["difference"] < 0]
    if not worse:
        page.paragraph("None.")
        return
    page.paragraph(
        f"{len(worse):,} of {len(runs[0].images):,} images, each run cut at its own best score."
    )
    shown = worse[:100]
    _table(page, shown)
    before = {row["id"]: row for row in comparison.a.images}
    after = {row["id"]: row for row in comparison.b.images}
    figures = []
    for row in shown[:_PICTURES]:
        sides = [
            list(
                draw_images(run, [rows[row["id"]]], d.matches, d.best["threshold"], image_root,
                            comparison.task, 1)
            )
            for run, d, rows in (
                (runs[0], comparison.a, before),
                (runs[1], comparison.b, after),
            )
        ]  # fmt: skip
        if all(sides):
            (_, first), (caption, second) = sides[0][0], sides[1][0]
            pictures = {
                "ground truth": second["ground truth"],
                "A": first["prediction"],
                "B": second["prediction"],
            }
            figures.append((caption, pictures))
    if figures:
        page.color_key(COLORS)
        page.gallery(figures, width=800)
