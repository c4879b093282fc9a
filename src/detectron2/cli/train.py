"""`detectron2 train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 train COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml; "
    "detectron2 train --data my_photos/ --model faster_rcnn_R_50_FPN --output my_model; "
    "detectron2 train COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml "
    "--train-data train.json photos/ --val-data val.json photos/ --set SOLVER.MAX_ITER=2000"
)


def train(
    config: Annotated[
        str | None,
        typer.Argument(
            help="Zoo name, YAML file or LazyConfig .py file; with --data one that suits it."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The same as config; faster_rcnn_R_50_FPN finds it in the zoo, too."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a dataset in the format of COCO, YOLO, Pascal VOC, LabelMe or VIA, "
            "or images and a CSV file."
        ),
    ] = None,
    train_data: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="COCO JSON file and image folder to train on, instead of the config's."),
    ] = None,
    val_data: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="COCO JSON file and image folder to evaluate on."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, logs and results.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Checkpoint to start from.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Start from random weights.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the output.")
    ] = False,
    num_gpus: Annotated[int, typer.Option(min=0, help="GPUs of this machine to use.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; the best by default.")] = None,
    auto_scale: Annotated[
        bool,
        typer.Option(
            "--auto-scale",
            help="Fit learning rate, warm-up and schedule to a changed SOLVER.IMS_PER_BATCH.",
        ),
    ] = False,
    find_lr: Annotated[
        bool,
        typer.Option(
            "--find-lr",
            help="Try rising learning rates for 100 steps and suggest one; no training.",
        ),
    ] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, KEY=VALUE; repeatable.")
    ] = None,
) -> None:
    """Train a model, evaluating it on the way and at the end."""
    from detectron2.engine.train_command import TrainOptions, run_train

    if config is not None and model is not None:
        raise typer.BadParameter(f"{config} is named already; leave out --model {model}.")
    run_train(
        TrainOptions(
            config=config or model,
            data=data,
            train_data=train_data,
            val_data=val_data,
            output=output,
            weights=weights,
            random_weights=random_weights,
            resume=resume,
            num_gpus=num_gpus,
            device=device,
            auto_scale=auto_scale,
            find_lr=find_lr,
            overrides=overrides or [],
        )
    )
