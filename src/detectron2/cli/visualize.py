"""`detectron2 visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 visualize my_photos/ --limit 20; "
    "detectron2 visualize annotations.json --images photos/ --output drawn; "
    "detectron2 visualize annotations.json --images photos/ --predictions results.json; "
    "detectron2 visualize coco_2017_val"
)


def visualize(
    dataset: Annotated[
        str,
        typer.Argument(help="Folder of a dataset, a COCO-format JSON file, or a registered name."),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images of a JSON file.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="COCO result file (a list of detections) to draw beside the truth."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("visualization"),
    limit: Annotated[int | None, typer.Option(min=1, help="Draw only so many images.")] = None,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out detections below this.")
    ] = 0.5,
) -> None:
    """Draw the annotations of a dataset, with predictions beside them where given."""
    from detectron2.engine.visualize_dataset import visualize_dataset

    count = visualize_dataset(
        dataset,
        image_root=images,
        predictions=predictions,
        output=output,
        limit=limit,
        min_score=min_score,
    )
    print(f"{count} pictures in {output}")
