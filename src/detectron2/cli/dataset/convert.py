"""`detectron2 dataset convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detectron2.cli.dataset._common import (
    IMAGE_ROOT_HELP,
    SOURCE_HELP,
    Format,
    Images,
    print_conversion,
)

EXAMPLE = (
    "Examples: detectron2 dataset convert my_photos/ my_photos_coco/ --to coco; "
    "detectron2 dataset convert coco_2017_val coco_val_yolo/ --to yolo --images symlink"
)


def command(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    to: Annotated[Format, typer.Option(help="Format to write.")],
    image_root: Annotated[Path | None, typer.Option(help=IMAGE_ROOT_HELP)] = None,
    images: Annotated[Images, typer.Option(help="Copy the images, or link to them.")] = Images.copy,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a folder that is not empty.")
    ] = False,
) -> None:
    """Write a dataset in another format. Whatever happens, all of it is written or nothing."""
    from detectron2.data.datasets.auto import open_dataset
    from detectron2.data.datasets.convert import convert_dataset

    dataset = open_dataset(source, image_root)
    result = convert_dataset(dataset, output, to.value, images.value, overwrite)
    print_conversion(dataset, result, output, to.value)
