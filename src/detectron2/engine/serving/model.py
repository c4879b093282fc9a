"""A model as a server needs it: images prepared one by one, run in batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from detectron2.data.catalog import Metadata
from detectron2.engine.load_predictor import LoadedPredictor
from detectron2.evaluation.box_masks import box_masks_for
from detectron2.modeling.postprocessing import masks_stay_on_boxes

__all__ = ["ServedModel", "served_model"]

Inputs = dict[str, Any]
Run = Callable[[list[Inputs]], list[dict[str, Any]]]


@dataclass(frozen=True)
class ServedModel:
    """
    Attributes:
        name: for people.
        metadata: names and colours of classes.
        class_names: of all classes.
        image_format: of the images that `prepare` takes, see `read_image`.
        prepare: from an image to the model's input; from any thread.
        key: what inputs must have in common to be run together without changing the results.
        run: up to a batch of inputs to an output each; from one thread at a time.
    """

    name: str
    metadata: Metadata
    class_names: list[str]
    image_format: str
    prepare: Callable[[np.ndarray], Inputs]
    key: Callable[[Inputs], Hashable]
    run: Run


def served_model(loaded: LoadedPredictor, name: str, max_pixels: int) -> ServedModel:
    """Adapt a `DefaultPredictor` or an exported file.

    Args:
        name: for people.
        max_pixels: results of no more pixels than that are made at once. Scores of 54 stuff
            classes for a batch of eight large photographs would take 40 GB.
    """
    predictor = loaded.predictor
    # Only files have a description of themselves.
    info = getattr(predictor, "info", None)
    key, run = _eager(predictor) if info is None else _exported(predictor, info)

    def run_in_parts(inputs: list[Inputs]) -> list[dict[str, Any]]:
        return [output for part in _parts(inputs, max_pixels) for output in run(part)]

    return ServedModel(
        name,
        loaded.metadata,
        loaded.class_names,
        predictor.image_format,
        predictor.prepare,
        key,
        run_in_parts,
    )


def _parts(inputs: list[Inputs], max_pixels: int) -> list[list[Inputs]]:
    """The inputs in order, in runs whose images have at most `max_pixels` together."""
    parts: list[list[Inputs]] = []
    pixels = 0
    for each in inputs:
        size = each["height"] * each["width"]
        if not parts or pixels + size > max_pixels:
            parts.append([])
            pixels = 0
        parts[-1].append(each)
        pixels += size
    return parts


class _TakesBoxMasks:
    """What `box_masks_for` asks: answers are made of masks that were left on their boxes."""

    def takes_box_masks(self) -> bool:
        return True


def _eager(predictor: Any) -> tuple[Callable[[Inputs], Hashable], Run]:
    def run(inputs: list[Inputs]) -> list[dict[str, Any]]:
        with torch.no_grad(), box_masks_for(predictor.model, _TakesBoxMasks()):
            outputs = predictor.model(inputs)
        return [_on_cpu(each) for each in outputs]

    return predictor.padded_size, run


def _exported(predictor: Any, info: Any) -> tuple[Callable[[Inputs], Hashable], Run]:
    multiple = max(info.size_divisibility, 1)

    def key(inputs: Inputs) -> Hashable:
        if info.image_size or info.square_size:
            return None  # every image is padded to the same size
        height, width = inputs["image"].shape[-2:]
        return height + -height % multiple, width + -width % multiple

    def run(inputs: list[Inputs]) -> list[dict[str, Any]]:
        with masks_stay_on_boxes():
            found: list[dict[str, Any]] = predictor(inputs)
        return found

    return key, run


def _on_cpu(output: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.to("cpu") if hasattr(value, "to") else value for name, value in output.items()
    }
