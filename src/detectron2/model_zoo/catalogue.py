"""What the model zoo offers: trained models with their published scores, speed and memory.

The numbers are those that the authors of the models published; they measured times and memory on
V100 GPUs, training on eight and running inference on one image at a time.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detectron2.utils.file_io import ZOO_ADDRESS

__all__ = ["ZooEntry", "datasets", "entries", "find", "tasks", "weights_licence"]


@dataclass(frozen=True)
class ZooEntry:
    """One trained model.

    Attributes:
        config: path for `detectron2.model_zoo.get_config`.
        task: one of `tasks`.
        dataset: what it was trained and scored on, one of `datasets`.
        weights: end of the address of the checkpoint, "model id/file" or "file".
        folder: part of that address before it, where it is not `name`.
        schedule: "1x" (90000 iterations of 16 images), "3x", ..., or a number of epochs.
        metrics: box_ap, box_ap50, mask_ap, keypoint_ap, pq, proposal_ar, miou, with _tta for
            test-time augmentation; in percent, on the validation set.
    """

    config: str
    task: str
    dataset: str
    weights: str
    folder: str = ""
    schedule: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    train_seconds_per_iteration: float | None = None
    train_seconds_per_image: float | None = None
    inference_seconds_per_image: float | None = None
    train_memory_gb: float | None = None

    @property
    def name(self) -> str:
        """The config path without its ending; ``.yaml`` and ``.py`` share their weights."""
        return os.path.splitext(self.config)[0]

    @property
    def main_score(self) -> float | None:
        """The metric that counts in its task, "box_ap" for detection; None if not published."""
        return self.metrics.get(_MAIN_METRIC[self.task])

    @property
    def url(self) -> str:
        """Address of the checkpoint."""
        return f"{ZOO_ADDRESS}{self.folder or self.name}/{self.weights}"


_MAIN_METRIC = {
    "detection": "box_ap",
    "instance segmentation": "mask_ap",
    "keypoints": "keypoint_ap",
    "panoptic segmentation": "pq",
    "proposals": "proposal_ar",
    "semantic segmentation": "miou",
}


def entries(
    task: str | None = None, dataset: str | None = None, sort_by: str | None = None
) -> list[ZooEntry]:
    """Trained models of the zoo.

    Args:
        task: only this task; None takes all.
        dataset: only this dataset; None takes all.
        sort_by: a metric (best first), "ap" for the one that counts in the task of each model, or
            "inference_seconds_per_image", "train_memory_gb", "train_seconds_per_iteration"
            (smallest first). Models without the number come last. None keeps the order of the
            catalogue.

    Raises:
        ValueError: no model has such a task, dataset or number.
    """
    _check("task", task, tasks())
    _check("dataset", dataset, datasets())
    chosen = [
        entry
        for entry in _catalogue().values()
        if task in (None, entry.task) and dataset in (None, entry.dataset)
    ]
    return chosen if sort_by is None else _sorted(chosen, sort_by)


def find(config_path: str) -> ZooEntry | None:
    """The trained model of a config path, with any ending or none; None if it has no weights."""
    return _catalogue().get(os.path.splitext(config_path)[0]) or _catalogue().get(config_path)


def tasks() -> list[str]:
    """Tasks of the zoo, in the order of the catalogue."""
    return list(dict.fromkeys(entry.task for entry in _catalogue().values()))


def datasets() -> list[str]:
    """Datasets of the zoo, in the order of the catalogue."""
    return list(dict.fromkeys(entry.dataset for entry in _catalogue().values()))


def weights_licence() -> str:
    """Licence of the published checkpoints. It is not the licence of this library."""
    return str(_file()["weights_licence"])


_SMALLER_IS_BETTER = (
    "inference_seconds_per_image",
    "train_memory_gb",
    "train_seconds_per_image",
    "train_seconds_per_iteration",
)


def _sorted(chosen: list[ZooEntry], sort_by: str) -> list[ZooEntry]:
    metrics = list(dict.fromkeys(m for entry in _catalogue().values() for m in entry.metrics))
    _check("number to sort by", sort_by, ["ap", *metrics, *_SMALLER_IS_BETTER])
    if sort_by in _SMALLER_IS_BETTER:
        return sorted(chosen, key=lambda entry: getattr(entry, sort_by) or float("inf"))
    if sort_by == "ap":
        return sorted(chosen, key=lambda entry: -(entry.main_score or float("-inf")))
    return sorted(chosen, key=lambda entry: -entry.metrics.get(sort_by, float("-inf")))


def _check(what: str, value: str | None, known: list[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"The model zoo has no {what} {value!r}; it has {', '.join(known)}.")


@functools.cache
def _catalogue() -> dict[str, ZooEntry]:
    return {entry.name: entry for entry in (ZooEntry(**row) for row in _file()["entries"])}


@functools.cache
def _file() -> dict[str, Any]:
    path = os.path.join(os.path.dirname(__file__), "catalogue.json")
    with open(path, encoding="utf-8") as file:
        return json.load(file)
