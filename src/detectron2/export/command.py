"""What `detectron2 export` does: find the model and the images, export, say what was proved."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.data.image_inputs import find_images
from detectron2.engine.config_edits import edits_of
from detectron2.engine.config_source import resolve_config
from detectron2.engine.train_command import VAL_NAME, _register, published_weights
from detectron2.export.evaluation import table_of
from detectron2.export.exporter import export
from detectron2.export.loading import ExportedModel
from detectron2.utils.file_io import PathManager

__all__ = ["ExportOptions", "run_export"]

TRITON = "triton-repo"
# Each is compared on its own, so a folder of a thousand would take an hour.
MAX_IMAGES = 8
# Ranges of activations settle long before; NNCF takes as many by default.
MAX_CALIBRATION = 300


@dataclass(frozen=True)
class ExportOptions:
    """Options of `detectron2 export`; see its help."""

    config: str
    format: str
    output: Path
    weights: str | None = None
    random_weights: bool = False
    images: list[str] = field(default_factory=list)
    batch: str = "dynamic"
    image_size: tuple[int, int] | None = None
    opset: int = 17
    int8: str | None = None
    dataset: str | None = None
    val_data: tuple[Path, Path] | None = None
    preprocess: str = "in"
    postprocess: str = "out"
    compile: bool = True
    file_format: str = "onnx"
    overrides: list[str] = field(default_factory=list)


def run_export(options: ExportOptions) -> ExportedModel:
    """Export and print what the file was compared on.

    Raises:
        ValueError: an option does not fit the format or the model.
    """
    cfg = resolve_config(options.config, options.overrides)
    edits = edits_of(cfg)
    edits.set_device("cpu")
    weights = options.weights or ("" if options.random_weights else None)
    edits.set_weights(published_weights(options.config) if weights is None else weights)
    exported = _exporter(options)(
        cfg,
        images=_read(options.images),
        batch=_batch(options.batch),
        image_size=options.image_size,
        opset=options.opset,
        classes=_classes_beside(options.weights),
        int8=None if options.int8 is None else _calibration(options.int8),
        dataset=_dataset(options),
        preprocess=options.preprocess,
        postprocess=options.postprocess,
        compile=options.compile,
    )
    kind = f" ({exported.info.contents})" if exported.info.contents else ""
    print(
        f"{exported.info.architecture} as {options.format}{kind} in {options.output}; compared on"
    )
    for line in exported.proof:
        print(f"  {line}")
    if exported.metrics is not None:
        print(table_of(exported.metrics))
    return exported


def _exporter(options: ExportOptions) -> Callable[..., ExportedModel]:
    """What exports a model, but for the model and the options that all formats share."""
    if options.format == TRITON:
        from detectron2.export.triton_repository import export_triton_model

        return functools.partial(
            export_triton_model, folder=options.output, file_format=options.file_format
        )
    return functools.partial(export, format=options.format, output=options.output)


class _ImageFiles(Sequence[np.ndarray]):
    """Images that are read when they are asked for."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _ImageFiles(self.paths[index])
        return read_image(PathManager.get_local_path(self.paths[index]), format="BGR")


def _calibration(data: str) -> Sequence[np.ndarray]:
    """Images of a registered dataset, or of a folder or pattern, evenly chosen."""
    if data in DatasetCatalog.list():
        paths = [record["file_name"] for record in DatasetCatalog.get(data)]
    else:
        paths = [image.path for image in find_images([data])]
    step = max(1, len(paths) / MAX_CALIBRATION)
    return _ImageFiles([paths[int(k * step)] for k in range(min(len(paths), MAX_CALIBRATION))])


def _dataset(options: ExportOptions) -> str | None:
    """Name of the dataset to evaluate on, registered if it is given as files."""
    if options.val_data is None:
        if options.dataset is not None and options.dataset not in DatasetCatalog.list():
            raise ValueError(
                f"There is no dataset {options.dataset!r}; give the name of a registered one, or "
                "--val-data ANNOTATIONS.json IMAGE_FOLDER."
            )
        return options.dataset
    if options.dataset is not None:
        raise ValueError("Give --eval or --val-data, not both.")
    _register(VAL_NAME, *options.val_data)
    return VAL_NAME


def _batch(text: str) -> int | str:
    if text == "dynamic":
        return text
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"--batch is {text!r}; give a positive number or dynamic.")
    return int(text)


def _read(inputs: list[str]) -> list[np.ndarray]:
    if not inputs:
        return []
    return [
        read_image(PathManager.get_local_path(image.path), format="BGR")
        for image in find_images(inputs)[:MAX_IMAGES]
    ]


def _classes_beside(weights: str | None) -> dict[str, object] | None:
    """Class names that training wrote beside a checkpoint; None if there are none."""
    from detectron2.data.metadata_file import METADATA_FILE, described_classes, load_metadata

    if weights is None or not (Path(weights).parent / METADATA_FILE).is_file():
        return None
    return described_classes(load_metadata(Path(weights).parent / METADATA_FILE))
