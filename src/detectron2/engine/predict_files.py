"""Prediction on people's own pictures: images in, annotated images and one result file out."""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detectron2.data.catalog import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb, read_image
from detectron2.data.image_inputs import ImageInput
from detectron2.engine.streaming import prefetched
from detectron2.structures.instances import Instances
from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_open, atomic_write_text

__all__ = [
    "CocoResultWriter",
    "JsonLinesResultWriter",
    "PredictionSummary",
    "ResultWriter",
    "draw_predictions",
    "predict_files",
    "save_picture",
]

Predictor = Callable[[np.ndarray], dict[str, Any]]


@dataclass
class PredictionSummary:
    """What happened.

    Attributes:
        images: how many were predicted.
        detections: of all images together; None if the model segments pixels and finds no objects.
        skipped: (name, reason) of the images that could not be read.
    """

    images: int = 0
    detections: int | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)


class ResultWriter(ABC):
    """Takes the detections of one image after the other; use as a context manager."""

    @abstractmethod
    def add(self, name: str, instances: Instances) -> None:
        """Take the detections of the image `name`, in the frame of that image."""

    @abstractmethod
    def __enter__(self) -> ResultWriter: ...

    @abstractmethod
    def __exit__(self, *error: object) -> None: ...


class JsonLinesResultWriter(ResultWriter):
    """One line of JSON per image, on disk as soon as the image is done."""

    def __init__(self, path: Path, class_names: list[str]) -> None:
        self.path = path
        self.class_names = class_names

    def __enter__(self) -> JsonLinesResultWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(self.path, "w", encoding="utf-8")
        return self

    def add(self, name: str, instances: Instances) -> None:
        height, width = instances.image_size
        detections = [
            {"category": self.class_names[row["category_id"]], **row}
            for row in _coco_rows(instances, image_id=0)
        ]
        for row in detections:
            del row["image_id"]
        line = {"file_name": name, "height": height, "width": width, "instances": detections}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def __exit__(self, *error: object) -> None:
        self._stream.close()


class CocoResultWriter(ResultWriter):
    """A COCO dataset file with scores: `images`, `annotations`, `categories` (ids from 1)."""

    def __init__(self, path: Path, class_names: list[str]) -> None:
        self.path = path
        self.class_names = class_names
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def __enter__(self) -> CocoResultWriter:
        return self

    def add(self, name: str, instances: Instances) -> None:
        height, width = instances.image_size
        image_id = len(self._images) + 1
        self._images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for row in _coco_rows(instances, image_id):
            row["category_id"] += 1
            row["area"] = row["bbox"][2] * row["bbox"][3]
            row["iscrowd"] = 0
            self._annotations.append({"id": len(self._annotations) + 1, **row})

    def __exit__(self, *error: object) -> None:
        # Also after an error or Ctrl-C: what has been predicted is kept.
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self.class_names)]
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }
        atomic_write_text(self.path, json.dumps(content))


def predict_files(
    images: Iterable[ImageInput],
    predictor: Predictor,
    *,
    metadata: Metadata,
    writer: ResultWriter,
    picture_folder: Path | None,
    min_score: float = 0.5,
    on_image_done: Callable[[], None] = lambda: None,
    image_format: str = "BGR",
) -> PredictionSummary:
    """Run `predictor` on every image; an unreadable image is skipped and listed, never fatal.

    Args:
        images: see `detectron2.data.image_inputs.find_images`.
        predictor: takes a (H, W, 3) uint8 BGR image, returns a dictionary with "instances",
            "panoptic_seg" or "sem_seg" as models do; a `DefaultPredictor` for example.
        metadata: class names and colours.
        writer: receives the detections.
        picture_folder: annotated images go here under their own names; None draws nothing.
        min_score: detections below it are neither drawn nor written.
        on_image_done: called after each image, for a progress bar.
        image_format: what `predictor` takes instead of BGR, see `read_image`.
    """
    summary = PredictionSummary()
    with writer:
        # The next images are read while the model works on this one.
        read = functools.partial(_read, image_format=image_format)
        for image, pixels in prefetched(map(read, images), depth=2):
            if isinstance(pixels, Exception):
                summary.skipped.append((image.name, str(pixels)))
                on_image_done()
                continue
            outputs = _above(predictor(pixels), min_score)
            if "instances" in outputs:
                writer.add(image.name, outputs["instances"])
                summary.detections = (summary.detections or 0) + len(outputs["instances"])
            if picture_folder is not None:
                rgb = convert_image_to_rgb(pixels, image_format)
                picture = draw_predictions(rgb, outputs, metadata)
                save_picture(picture, picture_folder / image.name)
            summary.images += 1
            on_image_done()
    return summary


def _read(
    image: ImageInput, image_format: str
) -> tuple[ImageInput, np.ndarray | OSError | ValueError]:
    """The pixels of an image, or why there are none."""
    try:
        return image, read_image(PathManager.get_local_path(image.path), format=image_format)
    except (OSError, ValueError) as error:
        return image, error


def draw_predictions(
    rgb: np.ndarray, outputs: dict[str, Any], metadata: Metadata, scale: float = 1.0
) -> np.ndarray:
    """(H * scale, W * scale, 3) uint8 RGB picture of what a model found in the RGB image `rgb`."""
    from detectron2.utils.visualizer import Visualizer

    visualizer = Visualizer(np.ascontiguousarray(rgb), metadata, scale=scale)
    if "panoptic_seg" in outputs:
        segmentation, segments = outputs["panoptic_seg"]
        return visualizer.draw_panoptic_seg_predictions(segmentation.cpu(), segments).get_image()
    if "sem_seg" in outputs:
        return visualizer.draw_sem_seg(outputs["sem_seg"].argmax(dim=0).cpu()).get_image()
    if "proposals" in outputs:
        boxes = outputs["proposals"].proposal_boxes.tensor[:50].cpu().numpy()
        return visualizer.overlay_instances(boxes=boxes).get_image()
    return visualizer.draw_instance_predictions(outputs["instances"]).get_image()


def _above(outputs: dict[str, Any], min_score: float) -> dict[str, Any]:
    """Copy of the model's outputs, on the CPU, without detections below `min_score`."""
    if "instances" not in outputs:
        return outputs
    instances = outputs["instances"].to("cpu")
    return {**outputs, "instances": instances[instances.scores >= min_score]}


def _coco_rows(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """COCO result rows: bbox (x, y, w, h) in pixels, score, category_id from 0, masks as RLE."""
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json

    return instances_to_coco_json(instances, image_id)


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write a (H, W, 3) uint8 RGB picture to `path`, creating its folder; all of it or nothing."""
    from PIL import Image

    # Formats that Pillow reads but does not write (or that hold no RGB) become PNG.
    if path.suffix.lower() not in {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}:
        path = path.with_name(path.name + ".png")
    kind = Image.registered_extensions()[path.suffix.lower()]
    with atomic_open(path, "wb") as stream:
        Image.fromarray(picture).save(stream, format=kind, quality=92)
