"""HTML pages about a dataset: its numbers, and its pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.data import MetadataCatalog
from detectron2.data.dataset_stats import (
    ASPECT_EDGES,
    SIZE_EDGES,
    SplitStats,
    class_table,
    measure,
    warnings_of,
)
from detectron2.data.datasets.auto import RegisteredDataset
from detectron2.data.datasets.convert import Content, read_content
from detectron2.engine.visualize_dataset import draw_record
from detectron2.utils.html import Page
from detectron2.utils.html.histograms import heat_map, histogram, rows_of_bars

__all__ = ["pictures_page", "stats_page", "summary_rows"]

# Wider pictures than this only make the page heavy.
_PICTURE_WIDTH = 640
_MOST_CLASSES = 60

SUMMARY_HEADER = (
    "split", "images", "without objects", "objects", "objects per image", "crowds", "annotated as",
)  # fmt: skip


def stats_page(dataset: RegisteredDataset, pictures: int = 12) -> tuple[Page, Content]:
    """Tables and plots of all splits, and some pictures.

    Args:
        dataset: see `detectron2.data.datasets.auto.open_dataset`.
        pictures: how many.
    """
    content = read_content(dataset)
    stats = measure(content)
    page = Page("Dataset statistics", _subtitle(dataset))
    page.table(SUMMARY_HEADER, summary_rows(stats))
    for sentence in (*_notes(dataset), *warnings_of(stats, content.classes)):
        page.paragraph(sentence)
    _add_classes(page, stats, content.classes)
    _add_boxes(page, stats)
    _add_images(page, stats)
    if pictures:
        page.heading("Pictures")
        page.gallery(_figures(dataset, content, pictures, None, 0))
    return page, content


def pictures_page(
    dataset: RegisteredDataset, limit: int, class_name: str | None = None, seed: int = 0
) -> Page:
    """Pictures with their annotations drawn.

    Args:
        dataset: see `detectron2.data.datasets.auto.open_dataset`.
        limit: how many at most, of all splits.
        class_name: only images that show this class.
        seed: of the choice.

    Raises:
        ValueError: there is no such class, or no image shows it.
    """
    content = read_content(dataset)
    if class_name is not None and class_name not in content.classes:
        raise ValueError(
            f"There is no class {class_name!r}; there are {', '.join(content.classes[:30])}."
        )
    figures = list(_figures(dataset, content, limit, class_name, seed))
    if not figures:
        raise ValueError(f"No image shows {class_name or 'anything'}.")
    page = Page("Dataset pictures", _subtitle(dataset))
    page.gallery(figures)
    return page


def summary_rows(stats: Mapping[str, SplitStats]) -> list[tuple[object, ...]]:
    """Rows below `SUMMARY_HEADER`."""
    rows: list[tuple[object, ...]] = []
    for split, each in stats.items():
        objects = sum(each.objects.values())
        rows.append(
            (
                split,
                each.images,
                each.without_objects,
                objects,
                objects / max(each.images, 1),
                each.crowds,
                ", ".join(f"{count} {kind}" for kind, count in each.kinds.items()) or "boxes",
            )
        )
    return rows


def _subtitle(dataset: RegisteredDataset) -> str:
    names = ", ".join(dataset.names.values())
    return (
        names
        if dataset.source is None
        else (f"{dataset.source.folder.resolve()} ({dataset.source.format}), registered as {names}")
    )


def _notes(dataset: RegisteredDataset) -> Sequence[str]:
    return () if dataset.source is None else dataset.source.notes


def _add_classes(page: Page, stats: Mapping[str, SplitStats], classes: Sequence[str]) -> None:
    page.heading(f"{len(classes)} classes")
    table = class_table(stats, classes)
    bars = {name: objects for name, objects, _ in table[:_MOST_CLASSES]}
    title = "Objects of each class"
    if len(table) > _MOST_CLASSES:
        title += f" (the {_MOST_CLASSES} most frequent)"
    page.drawings([rows_of_bars(title, bars, list(stats))])
    header = ["class", *(f"{split}: {what}" for split in stats for what in ("objects", "images"))]
    page.table(
        header,
        [
            [name, *(value for pair in zip(objects, images) for value in pair)]
            for name, objects, images in table
        ],
    )


def _add_boxes(page: Page, stats: Mapping[str, SplitStats]) -> None:
    page.heading("Boxes")
    sizes = {split: each.size_counts() for split, each in stats.items()}
    aspects = {split: each.aspect_counts() for split, each in stats.items()}
    positions = np.sum([each.positions for each in stats.values()], axis=0)
    per_image = {split: _per_image(each) for split, each in stats.items()}
    page.drawings(
        [
            histogram("Size: root of the area, pixels", _labels(SIZE_EDGES), sizes),
            histogram("Aspect ratio: width / height", _aspect_labels(), aspects),
            histogram("Objects per image", _PER_IMAGE_LABELS, per_image),
            heat_map("Where the centres are", positions, "the image, from its upper left corner"),
        ]
    )
    rows = []
    for split, each in stats.items():
        areas = each.sides.prod(axis=1)
        quantiles = np.quantile(each.sides, (0.05, 0.5, 0.95), axis=0) if len(areas) else None
        rows.append(
            (
                split,
                int((areas < 32**2).sum()),
                int(((areas >= 32**2) & (areas < 96**2)).sum()),
                int((areas >= 96**2).sum()),
                *("–" if quantiles is None else f"{w:.0f} × {h:.0f}" for w, h in (
                    quantiles if quantiles is not None else [(0, 0)] * 3
                )),
            )
        )  # fmt: skip
    page.table(
        ("split", "small (< 32²)", "medium", "large (≥ 96²)", "5 % below", "median", "95 % below"),
        rows,
    )


def _add_images(page: Page, stats: Mapping[str, SplitStats]) -> None:
    page.heading("Images")
    sizes: dict[tuple[int, int], list[int]] = {}
    for position, each in enumerate(stats.values()):
        for size, count in each.image_sizes.items():
            sizes.setdefault(size, [0] * len(stats))[position] = count
    frequent = sorted(sizes.items(), key=lambda item: -sum(item[1]))
    page.paragraph(
        f"{len(sizes)} different sizes, from {_extent(sizes, min)} to {_extent(sizes, max)} pixels."
    )
    page.table(
        ("width × height", *stats),
        [(f"{width} × {height}", *counts) for (width, height), counts in frequent[:12]],
    )


def _extent(sizes: Mapping[tuple[int, int], object], choose: Any) -> str:
    if not sizes:
        return "–"
    width, height = choose(sizes, key=lambda size: size[0] * size[1])
    return f"{width} × {height}"


_PER_IMAGE_EDGES = (0, 1, 2, 3, 4, 6, 11, 21, 51, math.inf)
_PER_IMAGE_LABELS = ("0", "1", "2", "3", "4", "6", "11", "21", "51", "∞")


def _per_image(stats: SplitStats) -> list[int]:
    return np.histogram(stats.per_image, bins=np.array(_PER_IMAGE_EDGES))[0].tolist()


def _labels(edges: Sequence[float]) -> list[str]:
    return ["∞" if math.isinf(edge) else f"{edge:g}" for edge in edges]


def _aspect_labels() -> list[str]:
    return [
        "" if edge == 0 or math.isinf(edge) else f"1:{1 / edge:g}" if edge < 1 else f"{edge:g}:1"
        for edge in ASPECT_EDGES
    ]


def _figures(
    dataset: RegisteredDataset, content: Content, limit: int, class_name: str | None, seed: int
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(caption, {label: picture}) of images chosen at random, those with objects first."""
    number = None if class_name is None else content.classes.index(class_name)
    candidates = [
        (split, record)
        for split, records in content.splits.items()
        for record in records
        if number is None or any(a["category_id"] == number for a in record["annotations"])
    ]
    order = np.random.default_rng(seed).permutation(len(candidates)).tolist()
    order.sort(key=lambda i: not candidates[i][1]["annotations"])
    for i in order[:limit]:
        split, record = candidates[i]
        metadata = MetadataCatalog.get(dataset.names[split])
        count = len(record["annotations"])
        caption = (
            f"{Path(record['file_name']).name}: {count} {'object' if count == 1 else 'objects'}"
        )
        yield caption, {split: draw_record(record, metadata, widest=_PICTURE_WIDTH)}
