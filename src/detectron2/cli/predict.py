"""`detectron2 predict`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 predict photos/ holiday/*.jpg --output found; "
    "detectron2 predict cat.jpg --config COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml; "
    "detectron2 predict aerial.tif --slice 1024; "
    "detectron2 predict cat.jpg --random-weights"
)
DEFAULT_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"


class Precision(str, Enum):
    """Arithmetic of the model."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class ResultFormat(str, Enum):
    """How the detections are written."""

    coco = "coco"
    jsonl = "jsonl"


def predict(
    inputs: Annotated[
        list[str], typer.Argument(help="Images, folders, globs or addresses (https, s3).")
    ],
    config: Annotated[
        str,
        typer.Option(
            help="Zoo name, YAML file or LazyConfig .py file of the model, or a file that "
            "`detectron2 export` wrote."
        ),
    ] = DEFAULT_CONFIG,
    weights: Annotated[
        str | None,
        typer.Option(help="Checkpoint; without it the published weights of a zoo config."),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Random weights: nothing is loaded or downloaded."),
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder for pictures and results.")] = Path(
        "predictions"
    ),
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out detections below this.")
    ] = 0.5,
    result_format: Annotated[
        ResultFormat,
        typer.Option("--format", help="COCO-format JSON, or one line of JSON per image."),
    ] = ResultFormat.coco,
    pictures: Annotated[bool, typer.Option(help="Write annotated images.")] = True,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, mps; the best there is by default.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of the arithmetic; bf16 is fast on CPUs with AMX and GPUs.")
    ] = Precision.fp32,
    slice_size: Annotated[
        int,
        typer.Option(
            "--slice", min=0, help="For large images: detect in slices of so many pixels; 0 is off."
        ),
    ] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a config key, KEY=VALUE; may be repeated."),
    ] = None,
) -> None:
    """Find objects on your own pictures: annotated images and one result file."""
    from detectron2.engine.predict_command import PredictOptions, run_predict

    run_predict(
        PredictOptions(
            inputs=inputs,
            config=config,
            weights=weights,
            random_weights=random_weights,
            output=output,
            min_score=min_score,
            result_format=result_format.value,
            pictures=pictures,
            device=device,
            precision=precision.value,
            slice_size=slice_size,
            overrides=overrides or [],
        )
    )
