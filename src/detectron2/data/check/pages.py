"""The report of a check as one HTML page with pictures of the offenders."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detectron2.data._image_io import ALL_CHANNELS
from detectron2.data.check.problems import KINDS, Problem
from detectron2.data.check.report import CheckReport
from detectron2.data.check.run import Dataset
from detectron2.data.detection_utils import convert_image_to_rgb, read_image
from detectron2.utils.html import Page

__all__ = ["write_page", "write_report"]

# Of each kind.
PICTURES, ROWS = 6, 100
CLASSES = 30
SIDE = 480
# The ground around an image, where a box that leaves it is drawn, takes at most this share.
MARGIN = 0.35
RED, GROUND = (230, 40, 40), (198, 204, 214)

Point = tuple[float, float]


def write_report(
    report: CheckReport, dataset: Dataset, folder: str | os.PathLike[str], stem: str
) -> Path:
    """Write `stem`.json and `stem`.html into a folder, if they are not there already.

    Returns:
        The path of the page.
    """
    data, page = Path(folder, f"{stem}.json"), Path(folder, f"{stem}.html")
    old = data.read_text(encoding="utf-8") if data.exists() and page.exists() else None
    if report.text() != old:
        report.write_json(data)
        write_page(report, dataset, page)
    return page


def write_page(report: CheckReport, dataset: Dataset, path: str | Path) -> Path:
    """Write the page: how many problems of which kind, pictures, and a table of each kind.

    Args:
        report: what `check` returned for `dataset`.
        dataset: its annotations are read for the pictures.
        path: of the page.
    """
    page = Page("Dataset check", report.source)
    page.paragraph(report.summary())
    content = dataset.load() if report.problems else {}
    counts = report.counts()
    if counts:
        page.table(
            ["kind", "severity", "number"],
            [
                [KINDS[kind].title, "error" if KINDS[kind].is_error else "warning", count]
                for kind, count in counts.items()
            ],
        )
    folder = _common_folder(report.problems)
    if folder:
        page.paragraph(f"Files are named from {folder} on.")
    for kind in counts:
        problems = [_named_from(folder, p) for p in report.problems if p.kind == kind]
        _section(page, kind, problems, content)
    if report.classes:
        page.heading("Classes")
        ranked = sorted(report.classes.items(), key=lambda item: -item[1])
        page.table(["class", "objects"], ranked[:CLASSES])
        if len(ranked) > CLASSES:
            page.paragraph(f"and {len(ranked) - CLASSES} classes with fewer objects.")
    return page.write(path)


def _section(page: Page, kind: str, problems: Sequence[Problem], content: dict[str, Any]) -> None:
    page.heading(f"{KINDS[kind].title} ({len(problems)})")
    figures = []
    for problem in problems:
        pictures = _pictures(problem, content)
        if pictures:
            figures.append((problem.reason, pictures))
        if len(figures) == PICTURES:
            break
    if figures:
        page.gallery(figures)
    columns = {
        "reason": [p.reason for p in problems[:ROWS]],
        "image id": [p.image_id for p in problems[:ROWS]],
        "annotation id": [p.annotation_id for p in problems[:ROWS]],
    }
    columns = {k: v for k, v in columns.items() if any(cell is not None for cell in v)}
    rows = zip(*columns.values())
    page.table(list(columns), [["" if cell is None else cell for cell in row] for row in rows])
    if len(problems) > ROWS:
        page.paragraph(f"The JSON report lists {len(problems) - ROWS} more.")


def _common_folder(problems: Sequence[Problem]) -> str:
    """The folder of all files that the problems are about, "" if there is none."""
    files = [file for p in problems for file in (p.file, p.other_file) if os.path.dirname(file)]
    try:
        return os.path.commonpath([os.path.dirname(file) for file in files])
    except ValueError:  # none, or absolute and relative ones
        return ""


def _named_from(folder: str, problem: Problem) -> Problem:
    """The problem with shorter names in its sentence; its files are still to be opened."""
    if len(folder) < 2:
        return problem
    return dataclasses.replace(problem, reason=problem.reason.replace(folder + os.sep, ""))


def _pictures(problem: Problem, content: dict[str, Any]) -> dict[str, np.ndarray]:
    """What to show of a problem: the image with the annotation, and the other image."""
    shown = {}
    entry = None
    if problem.annotation is not None:
        entry = content["annotations"][problem.annotation]
    for path in dict.fromkeys([problem.file, problem.other_file]):
        picture = _picture(path, entry) if path else None
        if picture is not None:
            shown[os.path.basename(path)] = picture
    return shown


def _picture(path: str, annotation: Any) -> np.ndarray | None:
    """RGB picture of a file with an annotation drawn on it; None for a file without pixels."""
    try:
        pixels = read_image(path, ALL_CHANNELS)
        image = Image.fromarray(convert_image_to_rgb(pixels, ALL_CHANNELS))
    except (OSError, ValueError):
        return None
    scale = SIDE / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size])
    outlines = _outlines(annotation) if isinstance(annotation, dict) else []
    scaled = [[(x * scale, y * scale) for x, y in outline] for outline in outlines]
    return np.asarray(_drawn(image, scaled))


def _drawn(image: Image.Image, outlines: Sequence[Sequence[Point]]) -> Image.Image:
    """The image, on a larger ground where outlines leave it."""
    limit = MARGIN * SIDE
    xs = [x for outline in outlines for x, _ in outline] or [0.0]
    ys = [y for outline in outlines for _, y in outline] or [0.0]
    left, top = (round(min(max(-min(values) + 4, 0), limit)) for values in (xs, ys))
    right = round(min(max(max(xs) + 4 - image.width, 0), limit))
    bottom = round(min(max(max(ys) + 4 - image.height, 0), limit))
    if not outlines:
        left = top = right = bottom = 0
    canvas = Image.new("RGB", (left + image.width + right, top + image.height + bottom), GROUND)
    canvas.paste(image, (left, top))
    draw = ImageDraw.Draw(canvas)
    for outline in outlines:
        points = [(x + left, y + top) for x, y in outline]
        draw.line([*points, points[0]], fill=RED, width=3, joint="curve")
    return canvas


def _outlines(annotation: dict[str, Any]) -> list[list[Point]]:
    """Box and polygons of an annotation, as far as they can be drawn."""
    outlines = []
    box = _finite(annotation.get("bbox"))
    if box is not None and len(box) == 4:
        x, y, w, h = box
        outlines.append([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
    segmentation = annotation.get("segmentation")
    for polygon in segmentation if isinstance(segmentation, list) else []:
        flat = _finite(polygon)
        if flat is not None and len(flat) >= 4 and len(flat) % 2 == 0:
            outlines.append(list(zip(flat[::2], flat[1::2])))
    return outlines


def _finite(values: Any) -> list[float] | None:
    try:
        flat = np.asarray(values, dtype=np.float64).reshape(-1)
    except (ValueError, TypeError):
        return None
    # Beyond this, Pillow's drawing overflows.
    return flat.tolist() if np.isfinite(flat).all() and (np.abs(flat) < 1e6).all() else None
