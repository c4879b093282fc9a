"""`detectron2 eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 eval COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml; "
    "detectron2 eval output/config.yaml --weights output/model_final.pth "
    "--data my_photos/ --report report/"
)


def evaluate(
    config: Annotated[
        str | None,
        typer.Argument(
            help="Zoo name, YAML file, LazyConfig .py file or exported model; "
            "with --data one that suits it."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint; without it the published one of a zoo config.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a dataset in a format that 'train --data' takes: its val or test "
            "split, else all of it."
        ),
    ] = None,
    val_data: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="COCO JSON file and image folder, instead of the config's datasets."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder for a report: why the metrics are what they are."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an evaluation was killed.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 or fp16: what convolutions compute in.")
    ] = "fp32",
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
            data=data,
            val_data=val_data,
            output=output,
            weights=weights,
            report=report,
            resume=resume,
            device=device,
            precision=precision,
            overrides=overrides or [],
        )
    )
