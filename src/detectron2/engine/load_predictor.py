"""What predicts, from what a user names: a config with weights, or an exported file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.metadata_file import METADATA_FILE, load_metadata
from detectron2.engine.config_edits import edits_of
from detectron2.engine.config_source import resolve_config
from detectron2.engine.defaults import DefaultPredictor
from detectron2.engine.exported_files import is_exported
from detectron2.engine.slicing import SlicedPredictor
from detectron2.engine.train_command import (
    best_device,
    published_weights,
    refuse_foreign_weights,
)

__all__ = ["LoadedPredictor", "ModelSource", "load_predictor"]


@dataclass(frozen=True)
class ModelSource:
    """What names a model on the command line.

    Attributes:
        config: zoo name, YAML or LazyConfig file, or a file that `detectron2 export` wrote.
        weights: checkpoint; None for the published weights of a zoo config.
        random_weights: load nothing.
        device: None for the best there is.
        precision: see `DefaultPredictor`.
        slice_size: side of the windows in which large images are searched; 0 for whole images.
        overrides: of the config, KEY=VALUE.
    """

    config: str
    weights: str | None = None
    random_weights: bool = False
    device: str | None = None
    precision: str = "fp32"
    slice_size: int = 0
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LoadedPredictor:
    """A `DefaultPredictor` or an `ExportedModel`, and a name for each of its classes."""

    predictor: Any
    metadata: Metadata
    class_names: list[str]


def load_predictor(source: ModelSource) -> LoadedPredictor:
    """Load what `source` names.

    Raises:
        FileNotFoundError: there is no such config or file.
        ValueError: no weights were named for a config that is not in the zoo, they are those of
            another architecture, or an option does not fit an exported file.
    """
    if is_exported(source.config):
        exported = _exported(source)
        names = _class_names(exported.metadata, exported.info.num_classes)
        return LoadedPredictor(exported, exported.metadata, names)
    cfg = resolve_config(source.config, source.overrides)
    edits = edits_of(cfg)
    edits.set_weights(_weights(source))
    edits.set_device(source.device or best_device())
    predictor: Any = DefaultPredictor(cfg, source.precision)
    refuse_foreign_weights(predictor.load_report, _weights(source))
    if source.slice_size:
        predictor = SlicedPredictor(predictor, source.slice_size)
    metadata = _metadata(cfg, source.weights)
    return LoadedPredictor(predictor, metadata, _class_names(metadata, edits.num_classes()))


def _exported(source: ModelSource) -> Any:
    from detectron2.export import load

    if source.weights or source.random_weights or source.overrides or source.slice_size:
        raise ValueError(
            f"{source.config!r} is an exported model, which has its weights and settings inside: "
            "leave out --weights, --random-weights, --slice and --set."
        )
    return load(source.config, source.device or "cpu", precision=source.precision)


def _weights(source: ModelSource) -> str:
    if source.random_weights:
        return ""
    return source.weights or published_weights(source.config)


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
