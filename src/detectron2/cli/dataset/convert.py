"""`detectron2 dataset convert`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 dataset convert my_photos/ my_photos_coco/ --to coco; "
    "detectron2 dataset convert coco_2017_val coco_val_yolo/ --to yolo --images symlink"
)


class Format(str, Enum):
    """Formats that are written."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"


class Images(str, Enum):
    """How images get into the new folder."""

    copy = "copy"
    hardlink = "hardlink"
    symlink = "symlink"


def command(
    source: Annotated[
        str, typer.Argument(help="Folder of a dataset, COCO JSON file, or registered name.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    to: Annotated[Format, typer.Option(help="Format to write.")],
    image_root: Annotated[
        Path | None, typer.Option(help="Folder of the images of a JSON file.")
    ] = None,
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
    notes = dataset.source.notes if dataset.source is not None else []
    for sentence in (*notes, *result.remarks):
        print(sentence)
    if result.losses:
        print("Not carried over:")
        for sentence in result.losses:
            print(f"  {sentence}")
    print(f"{result.images} images with {result.annotations} annotations are in {output}")
