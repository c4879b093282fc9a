"""`detectron2 dataset split`."""

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

EXAMPLE = "Example: detectron2 dataset split my_photos/ my_photos_split/ --val 0.2 --test 0.1"

Share = Annotated[float, typer.Option(min=0, max=1, help="Share of the images.")]


def command(
    source: Source,
    output: Output,
    val: Share = 0.2,
    test: Share = 0.0,
    seed: Annotated[int, typer.Option(help="Another number deals other images.")] = 0,
    to: To = None,
    image_root: ImageRoot = None,
    images: ImagesOption = Images.copy,
    overwrite: Overwrite = False,
) -> None:
    """Deal the images to train, val and test, so that each gets its share of every class."""
    from detectron2.data.datasets.auto import open_dataset
    from detectron2.data.datasets.convert import read_content, split_content

    dataset = open_dataset(source, image_root)
    content = read_content(dataset)
    if len(content.splits) > 1:
        print(f"The splits {', '.join(content.splits)} are put together and dealt anew.")
    shares = {"train": 1 - val - test, "val": val, "test": test}
    content = split_content(content, {name: part for name, part in shares.items() if part}, seed)
    write_part(dataset, content, output, to, images, overwrite)
    for name, records in content.splits.items():
        print(f"{name}: {len(records)} images")
