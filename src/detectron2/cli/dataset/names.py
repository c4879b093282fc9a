"""`detectron2 dataset names`."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLE = "Example: detectron2 dataset names coco_2017"


def command(
    part: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """List the names of the registered datasets."""
    from detectron2.data import DatasetCatalog

    for name in sorted(DatasetCatalog.all_names()):
        if part in name:
            print(name)
