"""What eight bits changed in a file: how much it finds alike, its size, its speed, its metrics."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detectron2.export.calibration import Batches
from detectron2.export.evaluation import Metrics
from detectron2.export.loading import ExportedModel
from detectron2.structures import Boxes, Instances, pairwise_iou

__all__ = ["MOST_LOST", "Int8Report", "agreement", "report_on", "report_path"]

# Images on which file and float file are compared and timed.
_COMPARED = 8
# Points of the first metric of any task that 8 bits may cost before more layers stay floats.
MOST_LOST = 0.7


@dataclass(frozen=True)
class Int8Report:
    """What eight bits changed; `to_json` is what `export` writes beside the file.

    Attributes:
        images: that the file was calibrated on.
        layers: whose weights are integers.
        float_parts: parts of the model that were left in float to lose less.
        agreement: see `agreement`, the mean over the compared images.
        bytes_before, bytes_after: of the files.
        ms_before, ms_after: fastest call on the first image, in milliseconds.
        metrics: of the model and of the file, if they were evaluated.
    """

    images: int
    layers: int
    agreement: float
    bytes_before: int
    bytes_after: int
    ms_before: float
    ms_after: float
    float_parts: tuple[str, ...] = ()
    metrics: Metrics | None = None

    @property
    def speedup(self) -> float:
        return self.ms_before / self.ms_after

    @property
    def lost(self) -> dict[str, float]:
        """Points of the first metric ("AP" of "bbox") that each task lost.

        A model without detections has no metric, so nothing to lose; a file without has lost all.
        """
        return {
            f"{task} {name}": before if math.isnan(after) else before - after
            for task, values in (self.metrics or {}).items()
            for name, (before, after) in list(values.items())[:1]
            if not math.isnan(before)
        }

    @property
    def most_lost(self) -> float:
        """The largest number of `lost`; 0 without metrics."""
        return max(self.lost.values(), default=0.0)

    def lines(self) -> list[str]:
        megabytes = [each / 1e6 for each in (self.bytes_before, self.bytes_after)]
        floats = f"; in float: {', '.join(self.float_parts)}" if self.float_parts else ""
        lines = [
            f"int8: {self.layers} layers, calibrated on {self.images} images{floats}",
            f"agreement with the float file: {self.agreement:.1%} of the detections",
            f"size: {megabytes[0]:.1f} -> {megabytes[1]:.1f} MB",
            f"latency: {self.ms_before:.0f} -> {self.ms_after:.0f} ms "
            f"({self.speedup:.2f} times as fast)",
        ]
        for name, lost in self.lost.items():
            task, _, metric = name.partition(" ")
            before, after = (self.metrics or {})[task][metric]
            lines.append(f"{name}: {before:.2f} -> {after:.2f} ({-lost:+.2f})")
        if self.most_lost > MOST_LOST:
            lines.append(
                f"more than {MOST_LOST} points are lost: calibrate on more images, or fine-tune "
                "with TRAINING.QUANTIZATION.ENABLED=True"
            )
        return lines

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        content.update(speedup=self.speedup, lost=self.lost)
        return json.dumps(_without_nan(content), indent=2)


def _without_nan(value: Any) -> Any:
    """Nested values with None instead of numbers that are none."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def report_path(output: Path) -> Path:
    """Where the report about a file lies: ``model.xml`` has ``model.int8.json``."""
    return output.with_suffix(".int8.json")


def report_on(
    before: ExportedModel, after: ExportedModel, images: Sequence[np.ndarray], layers: int
) -> Int8Report:
    """Compare a file with the float file that it was made from.

    Args:
        images: that it was calibrated on; the first few are used.
        layers: that became integers.
    """
    shares = []
    for index in range(min(_COMPARED, len(images))):
        batch = [images[index]] * (before.info.batch or 1)
        shares.append(agreement(before.predict(batch)[0], after.predict(batch)[0]))
    ms_before, ms_after = _milliseconds((before, after), images[0])
    return Int8Report(
        images=after.info.int8_images,
        layers=layers,
        agreement=float(np.mean(shares)),
        bytes_before=_bytes(before.path),
        bytes_after=_bytes(after.path),
        ms_before=ms_before,
        ms_after=ms_after,
    )


def _bytes(path: Path) -> int:
    """Size of a file, and of the weights beside it if they lie in a file of their own."""
    parts = {path, path.with_suffix(".bin")} if path.suffix == ".xml" else {path}
    return sum(part.stat().st_size for part in parts)


def _milliseconds(files: Sequence[ExportedModel], image: np.ndarray) -> list[float]:
    """The fastest run of each file; they take turns, so that a busy while hits all."""
    batches = []
    for exported in files:
        (inputs,) = Batches(exported.info, [image])
        batches.append([each.numpy() for each in inputs])
    times: list[list[float]] = [[] for _ in files]
    for _ in range(4):  # the first one is slower
        for exported, inputs, found in zip(files, batches, times):
            start = time.perf_counter()
            exported.runtime(*inputs)
            found.append(time.perf_counter() - start)
    return [min(found) * 1e3 for found in times]


def agreement(first: dict[str, Any], second: dict[str, Any]) -> float:
    """How much two results of one image have in common, from 0 to 1.

    Of detections the share that has a partner in the other result, of the same class and with
    an IoU of at least 0.5; of semantic scores the share of pixels of the same class.
    """
    for name in ("instances", "proposals"):
        if name in first:
            return _shared_detections(first[name], second[name])
    same = first["sem_seg"].argmax(dim=0) == second["sem_seg"].argmax(dim=0)
    return float(same.float().mean())


def _shared_detections(first: Instances, second: Instances) -> float:
    total = len(first) + len(second)
    if total == 0:
        return 1.0
    field = "pred_boxes" if first.has("pred_boxes") else "proposal_boxes"
    overlap = pairwise_iou(_boxes(first, field), _boxes(second, field))
    if first.has("pred_classes"):
        overlap *= first.pred_classes[:, None] == second.pred_classes[None]
    return 2 * _pairs(overlap) / total


def _boxes(instances: Instances, field: str) -> Boxes:
    return instances.get(field)


def _pairs(overlap: Tensor) -> int:
    """Number of pairs, best first, no row or column twice."""
    pairs = 0
    overlap = overlap.clone()
    while overlap.numel() and float(overlap.max()) >= 0.5:
        row, column = divmod(int(overlap.argmax()), overlap.shape[1])
        overlap[row], overlap[:, column] = -1, -1
        pairs += 1
    return pairs
