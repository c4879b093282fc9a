"""`detectron2 dataset visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detectron2.cli.dataset._common import ImageRoot, Source

EXAMPLE = (
    "Examples: detectron2 dataset visualize my_photos/; "
    "detectron2 dataset visualize my_photos/ --class cat --limit 50 --output cats.html"
)


def command(
    source: Source,
    output: Annotated[Path, typer.Option(help="HTML page to write.")] = Path(
        "dataset_pictures.html"
    ),
    limit: Annotated[int, typer.Option(min=1, help="Most pictures.")] = 24,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Only images that show this class.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another number chooses other images.")] = 0,
    image_root: ImageRoot = None,
) -> None:
    """Draw images with their annotations on one page that opens anywhere."""
    from detectron2.data.datasets.auto import open_dataset
    from detectron2.engine.dataset_pages import pictures_page

    page = pictures_page(open_dataset(source, image_root), limit, class_name, seed)
    print(f"Pictures: {page.write(output)}")
