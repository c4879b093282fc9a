"""`detectron2 benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 benchmark COCO-Detection/retinanet_R_50_FPN_3x.yaml photos/; "
    "detectron2 benchmark output/config.yaml photos/ --weights output/model_final.pth "
    "--variants plain,fp32,bf16 --compare onnxruntime --json times.json"
)


def benchmark(
    config: Annotated[
        str, typer.Argument(help="Zoo name, YAML file, LazyConfig .py file or exported model.")
    ],
    images: Annotated[list[str], typer.Argument(help="Your own images, folders or globs.")],
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint; without it the published one of a zoo config.")
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Random weights: nothing is loaded or downloaded."),
    ] = False,
    variants: Annotated[
        str,
        typer.Option(
            help="Comma-separated: plain (unoptimized), fp32, bf16, fp16. The first is the base."
        ),
    ] = "plain,fp32",
    compare: Annotated[
        str,
        typer.Option(
            help="Comma-separated: torchvision, onnxruntime, openvino or files of "
            "'detectron2 export', to measure beside."
        ),
    ] = "",
    compare_python: Annotated[
        str | None,
        typer.Option(help="Python of an environment that has torchvision.", metavar="PATH"),
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Also compare the metrics of the variants.")
    ] = False,
    val_data: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="COCO JSON file and image folder for --accuracy."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of every image.")] = 3,
    max_images: Annotated[int, typer.Option(min=1, help="Use the first so many images.")] = 8,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; the best by default.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers to this file.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, KEY=VALUE; repeatable.")
    ] = None,
) -> None:
    """Measure latency, throughput and stages of a model on your images and machine."""
    from detectron2.engine.benchmark_command import BenchmarkOptions, run_benchmark

    run_benchmark(
        BenchmarkOptions(
            config=config,
            images=images,
            weights=weights,
            random_weights=random_weights,
            variants=_names(variants),
            compare=_names(compare),
            compare_python=compare_python,
            accuracy=accuracy or val_data is not None,
            val_data=val_data,
            repeats=repeats,
            max_images=max_images,
            threads=threads,
            device=device,
            json_file=json_file,
            overrides=overrides or [],
        )
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
