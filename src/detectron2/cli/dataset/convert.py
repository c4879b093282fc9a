"""`detectron2 dataset convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from detectron2.cli.dataset._common import (
    Format,
    ImageRoot,
    Images,
    ImagesOption,
    Output,
    Overwrite,
    Source,
    print_conversion,
)

EXAMPLE = (
    "Examples: detectron2 dataset convert my_photos/ my_photos_coco/ --to coco; "
    "detectron2 dataset convert coco_2017_val coco_val_yolo/ --to yolo --images symlink"
)


def command(
    source: Source,
    output: Output,
    to: Annotated[Format, typer.Option(help="Format to write.")],
    image_root: ImageRoot = None,
    images: ImagesOption = Images.copy,
    overwrite: Overwrite = False,
) -> None:
    """Write a dataset in another format. Whatever happens, all of it is written or nothing."""
    from detectron2.data.datasets.auto import open_dataset
    from detectron2.data.datasets.convert import convert_dataset

    dataset = open_dataset(source, image_root)
    result = convert_dataset(dataset, output, to.value, images.value, overwrite)
    print_conversion(dataset, result, output, to.value)
