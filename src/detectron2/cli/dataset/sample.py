"""`detectron2 dataset sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detectron2.cli.dataset._common import (
    IMAGE_ROOT_HELP,
    SOURCE_HELP,
    Format,
    Images,
    format_of,
    print_conversion,
)

EXAMPLE = "Example: detectron2 dataset sample coco_2017_train small/ --count 500 --per-class 5"


def command(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    count: Annotated[int, typer.Option(min=1, help="Images in all.")] = 100,
    per_class: Annotated[
        int, typer.Option(min=0, help="So many images of each class come first.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Another number chooses other images.")] = 0,
    to: Annotated[
        Format | None, typer.Option(help="Format to write; that of the source by default.")
    ] = None,
    image_root: Annotated[Path | None, typer.Option(help=IMAGE_ROOT_HELP)] = None,
    images: Annotated[Images, typer.Option(help="Copy the images, or link to them.")] = Images.copy,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a folder that is not empty.")
    ] = False,
) -> None:
    """Write a small dataset of some of the images: every split gets its share."""
    from detectron2.data.datasets.auto import open_dataset
    from detectron2.data.datasets.convert import read_content, sample_content, write_content

    dataset = open_dataset(source, image_root)
    content = sample_content(read_content(dataset), count, per_class, seed)
    chosen = format_of(dataset, to)
    result = write_content(content, output, chosen, images.value, overwrite)
    print_conversion(dataset, result, output, chosen)
