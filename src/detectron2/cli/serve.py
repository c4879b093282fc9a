"""`detectron2 serve`."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLE = (
    "Examples: detectron2 serve model.onnx; "
    "detectron2 serve output/config.yaml --weights output/model_final.pth --host 0.0.0.0; then "
    "curl -F image=@photo.jpg localhost:8000/predict, or open localhost:8000 in a browser"
)


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="Zoo name, YAML file or LazyConfig .py file, or a file that `detectron2 export` "
            "wrote."
        ),
    ],
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint; without it the published one of a zoo config.")
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Random weights: nothing is loaded or downloaded."),
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; the best by default.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 for speed.")] = "fp32",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out detections below this by default.")
    ] = 0.5,
    max_batch: Annotated[int, typer.Option(min=1, help="Images that the model takes at once.")] = 8,
    max_wait: Annotated[
        float, typer.Option(min=0, help="Milliseconds that an image waits for others.")
    ] = 5,
    queue: Annotated[
        int, typer.Option(min=1, help="Images that may wait; more are answered with 503.")
    ] = 64,
    max_upload: Annotated[float, typer.Option(min=0.001, help="Size of a request, in MB.")] = 10,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Size of an image, in millions of pixels.")
    ] = 25,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds from upload to answer, then 504.")
    ] = 30,
    read_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that an upload may take, then 408.")
    ] = 15,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, KEY=VALUE; repeatable.")
    ] = None,
) -> None:
    """Serve a model over HTTP, with a page to try it."""
    from detectron2.engine.load_predictor import ModelSource
    from detectron2.engine.serving.command import ServeOptions, run_serve
    from detectron2.engine.serving.limits import ServeLimits

    limits = ServeLimits(
        max_batch=max_batch,
        max_wait=max_wait / 1000,
        max_queue=queue,
        max_bytes=round(max_upload * 1_000_000),
        max_pixels=round(max_megapixels * 1_000_000),
        answer_timeout=timeout,
        read_timeout=read_timeout,
    )
    source = ModelSource(
        model, weights, random_weights, device, precision, overrides=overrides or []
    )
    run_serve(ServeOptions(source, host, port, min_score, limits))
