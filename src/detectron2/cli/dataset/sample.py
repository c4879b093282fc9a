"""`detectron2 dataset sample`."""

from __future__ import annotations

from typing import Annotated

import typer

from detectron2.cli.dataset._common import (
    ImageRoot,
    Images,
    ImagesOption,
    Output,
    Overwrite,
    Source,
    To,
    write_part,
)

_MOST = 100  # images, where no number is given
EXAMPLE = "Example: detectron2 dataset sample coco_2017_train small/ --count 500 --per-class 5"


def command(
    source: Source,
    output: Output,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Images in all; without it 100, or half of a small dataset."),
    ] = None,
    per_class: Annotated[
        int, typer.Option(min=0, help="So many images of each class come first.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Another number chooses other images.")] = 0,
    to: To = None,
    image_root: ImageRoot = None,
    images: ImagesOption = Images.copy,
    overwrite: Overwrite = False,
) -> None:
    """Write a small dataset of some of the images: every split gets its share."""
    from detectron2.data.datasets.auto import open_dataset
    from detectron2.data.datasets.convert import read_content, sample_content

    dataset = open_dataset(source, image_root)
    content = read_content(dataset)
    if count is None:
        total = sum(map(len, content.splits.values()))
        count = max(1, min(_MOST, total // 2))
    content = sample_content(content, count, per_class, seed)
    write_part(dataset, content, output, to, images, overwrite)
