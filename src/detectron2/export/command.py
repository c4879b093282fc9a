"""What `detectron2 export` does: find the model and the images, export, say what was proved."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detectron2.data.detection_utils import read_image
from detectron2.data.image_inputs import find_images
from detectron2.engine.config_edits import edits_of
from detectron2.engine.config_source import resolve_config
from detectron2.engine.train_command import published_weights
from detectron2.export.exporter import export
from detectron2.export.loading import ExportedModel
from detectron2.utils.file_io import PathManager

__all__ = ["ExportOptions", "run_export"]

# Each is compared on its own, so a folder of a thousand would take an hour.
MAX_IMAGES = 8


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
    exported = export(
        cfg,
        options.format,
        options.output,
        images=_read(options.images),
        batch=_batch(options.batch),
        image_size=options.image_size,
        opset=options.opset,
        classes=_classes_beside(options.weights),
    )
    print(f"{exported.info.architecture} as {options.format} in {options.output}; compared on")
    for line in exported.proof:
        print(f"  {line}")
    return exported


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
