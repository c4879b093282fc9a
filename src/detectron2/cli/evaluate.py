"""`detectron2 eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 eval COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml; "
    "detectron2 eval output/config.yaml --weights output/model_final.pth "
    "--data val.json photos/"
)


def evaluate(
    config: Annotated[
        str, typer.Argument(help="Zoo name, YAML or LazyConfig .py file, or exported model.")
    ],
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint; without it the published one of a zoo config.")
    ] = None,
    data: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="COCO JSON file and image folder, instead of the config's datasets."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; the best by default.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, KEY=VALUE; repeatable.")
    ] = None,
) -> None:
    """Evaluate a checkpoint and print its metrics."""
    from detectron2.engine.train_command import TrainOptions, run_evaluate

    run_evaluate(
        TrainOptions(
            config=config,
            val_data=data,
            output=output,
            weights=weights,
            device=device,
            overrides=overrides or [],
        )
    )
