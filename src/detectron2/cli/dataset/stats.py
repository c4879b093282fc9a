"""`detectron2 dataset stats`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detectron2.cli.dataset._common import ImageRoot, Source

EXAMPLE = "Example: detectron2 dataset stats my_photos/ --output my_photos.html"


def command(
    source: Source,
    output: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("dataset_stats.html"),
    image_root: ImageRoot = None,
    pictures: Annotated[int, typer.Option(min=0, help="Pictures on the page.")] = 12,
) -> None:
    """Count classes, sizes and shapes of boxes, images; write one page with tables and plots."""
    from rich.console import Console
    from rich.table import Table

    from detectron2.data.dataset_stats import class_table, measure, warnings_of
    from detectron2.data.datasets.auto import open_dataset
    from detectron2.engine.dataset_pages import SUMMARY_HEADER, stats_page, summary_rows

    dataset = open_dataset(source, image_root)
    page, content = stats_page(dataset, pictures)
    stats = measure(content)
    console = Console(highlight=False, soft_wrap=True)
    summary = Table(*SUMMARY_HEADER)
    for row in summary_rows(stats):
        summary.add_row(*(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row))
    console.print(summary)
    classes = Table("class", *(f"{split}: objects" for split in stats))
    for name, objects, _ in class_table(stats, content.classes)[:20]:
        classes.add_row(name, *map(str, objects))
    console.print(classes)
    notes = () if dataset.source is None else dataset.source.notes
    for sentence in (*notes, *warnings_of(stats, content.classes)):
        console.print(sentence, markup=False)
    console.print(f"Tables and plots: {page.write(output)}")
