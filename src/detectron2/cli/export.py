"""`detectron2 export`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 export COCO-Detection/retinanet_R_50_FPN_1x.yaml --format onnx "
    "--output retinanet.onnx; "
    "detectron2 export output/config.yaml --weights output/model_final.pth --format torchscript "
    "--output model.ts --image photo.jpg; then detectron2 predict photos/ --config model.ts"
)


class ExportFormat(str, Enum):
    """Which runtime the file is for."""

    torchscript = "torchscript"
    onnx = "onnx"
    openvino = "openvino"
    pt2 = "pt2"
    executorch = "executorch"
    triton_repo = "triton-repo"


Int8Data = Annotated[
    str | None,
    typer.Option(
        help="Dataset, folder or glob for 8-bit integers; for openvino, pt2 and executorch.",
        metavar="DATA",
    ),
]
EvalDataset = Annotated[
    str | None,
    typer.Option(
        "--eval", help="Registered dataset to evaluate model and file on.", metavar="DATASET"
    ),
]


def export(
    model: Annotated[str, typer.Argument(help="Zoo name, YAML file or LazyConfig .py file.")],
    format: Annotated[ExportFormat, typer.Option(help="Format of the file.")],
    output: Annotated[
        Path,
        typer.Option(
            help="File to write: .ts, .onnx, .xml (with a .bin beside it), .pt2 or .pte; for "
            "triton-repo a folder, named as the model."
        ),
    ],
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint; without it the published one of a zoo config.")
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Random weights: nothing is loaded or downloaded."),
    ] = False,
    image: Annotated[
        list[str] | None,
        typer.Option(help="Image, folder or glob to compare file and model on; repeatable."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Images in a call: a number, or dynamic.")] = "dynamic",
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Height and width that images are padded to; any without it."),
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators.")] = 17,
    int8: Int8Data = None,
    eval_dataset: EvalDataset = None,
    val_data: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="COCO JSON file and image folder to evaluate model and file on."),
    ] = None,
    preprocess: Annotated[
        str, typer.Option(help="Whether the file normalises pixels (in) or its caller (out).")
    ] = "in",
    postprocess: Annotated[
        str,
        typer.Option(help="Whether the file scales results and pastes masks (in) or not (out)."),
    ] = "out",
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Write the graph of a .pt2 file uncompiled.")
    ] = False,
    file_format: Annotated[
        str, typer.Option(help="What a Triton repository holds: onnx or torchscript.")
    ] = "onnx",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, KEY=VALUE; repeatable.")
    ] = None,
) -> None:
    """Write a model to a file for another runtime; it is kept only if it computes the same."""
    from detectron2.export.command import ExportOptions, run_export

    run_export(
        ExportOptions(
            config=model,
            format=format.value,
            output=output,
            weights=weights,
            random_weights=random_weights,
            images=image or [],
            batch=batch,
            image_size=image_size,
            opset=opset,
            int8=int8,
            dataset=eval_dataset,
            val_data=val_data,
            preprocess=preprocess,
            postprocess=postprocess,
            compile=not no_compile,
            file_format=file_format,
            overrides=overrides or [],
        )
    )
