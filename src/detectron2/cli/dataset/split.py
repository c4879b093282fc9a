"""`detectron2 dataset split`."""

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

EXAMPLE = "Example: detectron2 dataset split my_photos/ my_photos_split/ --val 0.2 --test 0.1"


def command(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of the images.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of the images.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another number deals other images.")] = 0,
    to: Annotated[
        Format | None, typer.Option(help="Format to write; that of the source by default.")
    ] = None,
    image_root: Annotated[Path | None, typer.Option(help=IMAGE_ROOT_HELP)] = None,
    images: Annotated[Images, typer.Option(help="Copy the images, or link to them.")] = Images.copy,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a folder that is not empty.")
    ] = False,
) -> None:
    """Deal the images to train, val and test, so that each gets its share of every class."""
    from detectron2.data.datasets.auto import open_dataset
    from detectron2.data.datasets.convert import (
        read_content,
        split_content,
        write_content,
    )

    dataset = open_dataset(source, image_root)
    content = read_content(dataset)
    if len(content.splits) > 1:
        print(f"The splits {', '.join(content.splits)} are put together and dealt anew.")
    shares = {"train": 1 - val - test, "val": val, "test": test}
    content = split_content(content, {name: part for name, part in shares.items() if part}, seed)
    chosen = format_of(dataset, to)
    result = write_content(content, output, chosen, images.value, overwrite)
    print_conversion(dataset, result, output, chosen)
    for name, records in content.splits.items():
        print(f"{name}: {len(records)} images")
