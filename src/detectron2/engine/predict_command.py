"""What `detectron2 predict` does: find the model and the images, run, say what happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from detectron2.data.image_inputs import find_images
from detectron2.engine.load_predictor import ModelSource, load_predictor
from detectron2.engine.predict_files import (
    CocoResultWriter,
    JsonLinesResultWriter,
    PredictionSummary,
    ResultWriter,
    predict_files,
)
from detectron2.utils.files import require_writable_folder

__all__ = ["PredictOptions", "run_predict"]


@dataclass(frozen=True)
class PredictOptions:
    """Options of `detectron2 predict`; see its help."""

    inputs: list[str]
    config: str
    output: Path
    weights: str | None = None
    random_weights: bool = False
    min_score: float = 0.5
    result_format: str = "coco"
    pictures: bool = True
    device: str | None = None
    precision: str = "fp32"
    slice_size: int = 0
    overrides: list[str] = field(default_factory=list)


def run_predict(options: PredictOptions) -> PredictionSummary:
    """Predict, with a progress bar, and print where the results are.

    Raises:
        FileNotFoundError: an input names no image, or the weights are not to be had.
        ValueError: no weights were named for a config that is not in the zoo, they are those of
            another architecture, or none of the images could be read.
    """
    from rich.console import Console
    from rich.progress import Progress

    images = find_images(options.inputs)
    # Fails now if the folder cannot be written to, not after the model has run.
    require_writable_folder(options.output)
    loaded = load_predictor(
        ModelSource(
            options.config,
            options.weights,
            options.random_weights,
            options.device,
            options.precision,
            options.slice_size,
            options.overrides,
        )
    )
    writer = _writer(options, loaded.class_names)
    console = Console(highlight=False, soft_wrap=True)
    with Progress(console=console) as progress:
        task = progress.add_task("Predicting", total=len(images))
        summary = predict_files(
            images,
            loaded.predictor,
            metadata=loaded.metadata,
            writer=writer,
            picture_folder=options.output if options.pictures else None,
            min_score=options.min_score,
            on_image_done=lambda: progress.advance(task),
            image_format=loaded.predictor.image_format,
        )
    for name, reason in summary.skipped:
        console.print(f"skipped {name}: {reason}", markup=False)
    if not summary.images:
        raise ValueError("No image could be read; the reasons are above.")
    console.print(f"{_what_was_found(summary)}; results in {options.output}")
    return summary


def _what_was_found(summary: PredictionSummary) -> str:
    if summary.detections is None:
        return f"{summary.images} images segmented (the file of detections is empty)"
    return f"{summary.detections} detections in {summary.images} images"


def _writer(options: PredictOptions, class_names: list[str]) -> ResultWriter:
    if options.result_format == "jsonl":
        return JsonLinesResultWriter(options.output / "predictions.jsonl", class_names)
    return CocoResultWriter(options.output / "predictions.json", class_names)
