"""What `detectron2 predict` does: find the model and the images, run, say what happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.image_inputs import find_images
from detectron2.data.metadata_file import METADATA_FILE, load_metadata
from detectron2.engine.config_edits import edits_of
from detectron2.engine.config_source import resolve_config
from detectron2.engine.defaults import DefaultPredictor
from detectron2.engine.exported_files import is_exported
from detectron2.engine.predict_files import (
    CocoResultWriter,
    JsonLinesResultWriter,
    PredictionSummary,
    ResultWriter,
    predict_files,
)
from detectron2.engine.slicing import SlicedPredictor
from detectron2.engine.train_command import (
    best_device,
    published_weights,
    refuse_foreign_weights,
)

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
    options.output.mkdir(parents=True, exist_ok=True)
    predictor, metadata, class_count = _predictor(options)
    writer = _writer(options, _class_names(metadata, class_count))
    console = Console(highlight=False, soft_wrap=True)
    with Progress(console=console) as progress:
        task = progress.add_task("Predicting", total=len(images))
        summary = predict_files(
            images,
            predictor,
            metadata=metadata,
            writer=writer,
            picture_folder=options.output if options.pictures else None,
            min_score=options.min_score,
            on_image_done=lambda: progress.advance(task),
            image_format=predictor.image_format,
        )
    for name, reason in summary.skipped:
        console.print(f"skipped {name}: {reason}", markup=False)
    if not summary.images:
        raise ValueError(f"None of the {len(images)} images could be read.")
    console.print(
        f"{summary.detections} detections in {summary.images} images; results in {options.output}"
    )
    return summary


def _predictor(options: PredictOptions) -> tuple[Any, Metadata, int]:
    """What predicts, the names of its classes, and how many there are."""
    if is_exported(options.config):
        exported = _exported(options)
        return exported, exported.metadata, exported.info.num_classes
    cfg = _config(options)
    predictor: Any = DefaultPredictor(cfg, options.precision)
    refuse_foreign_weights(predictor.load_report, _weights(options))
    if options.slice_size:
        predictor = SlicedPredictor(predictor, options.slice_size)
    return predictor, _metadata(cfg, options.weights), edits_of(cfg).num_classes()


def _exported(options: PredictOptions) -> Any:
    from detectron2.export import load

    if (
        options.weights
        or options.random_weights
        or options.overrides
        or options.slice_size
        or options.precision != "fp32"
    ):
        raise ValueError(
            f"{options.config!r} is an exported model, which has its weights and settings inside: "
            "leave out --weights, --random-weights, --precision, --slice and --set."
        )
    return load(options.config, options.device or "cpu")


def _config(options: PredictOptions) -> Any:
    cfg = resolve_config(options.config, options.overrides)
    edits = edits_of(cfg)
    edits.set_weights(_weights(options))
    edits.set_device(options.device or best_device())
    return cfg


def _weights(options: PredictOptions) -> str:
    if options.random_weights:
        return ""
    return options.weights or published_weights(options.config)


def _metadata(cfg: Any, weights: str | None) -> Metadata:
    """Class names: those beside the checkpoint, else those of the config's dataset."""
    if weights is not None:
        beside = Path(weights).parent / METADATA_FILE
        if beside.is_file():
            return load_metadata(beside)
    return MetadataCatalog.get(edits_of(cfg).test_dataset() or "__unused")


def _class_names(metadata: Metadata, count: int) -> list[str]:
    known = list(metadata.get("thing_classes", []))
    count = max(count, len(known))
    return known + [f"class {i}" for i in range(len(known), count)]


def _writer(options: PredictOptions, class_names: list[str]) -> ResultWriter:
    if options.result_format == "jsonl":
        return JsonLinesResultWriter(options.output / "predictions.jsonl", class_names)
    return CocoResultWriter(options.output / "predictions.json", class_names)
