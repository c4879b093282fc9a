"""Numbers that describe a dataset: classes, sizes and shapes of boxes, images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detectron2.data.datasets.convert.content import Content, upright_box

__all__ = ["ASPECT_EDGES", "SIZE_EDGES", "SplitStats", "class_table", "measure", "warnings_of"]

# Square roots of areas in pixels; COCO calls objects below 32 small and above 96 large.
SIZE_EDGES = (0, 8, 16, 32, 64, 96, 128, 256, 512, math.inf)
# Width by height.
ASPECT_EDGES = (0, 1 / 4, 1 / 3, 1 / 2, 1 / 1.5, 1 / 1.2, 1.2, 1.5, 2, 3, 4, math.inf)
_POSITION_CELLS = (12, 16)
_FEW_IMAGES = 10


@dataclass
class SplitStats:
    """One split.

    Attributes:
        images, without_objects, crowds: how many.
        objects, images_of: class number to number of objects, and of images that show one.
        per_image: number of objects of each image.
        sides: (N, 2) width and height of the boxes, in pixels.
        positions: (rows, columns) how many boxes have their centre there, from top left.
        image_sizes: (width, height) -> how many images.
        kinds: "polygons", "run lengths", "keypoints", "rotated boxes" -> how many objects.
    """

    images: int = 0
    without_objects: int = 0
    crowds: int = 0
    objects: Counter[int] = field(default_factory=Counter)
    images_of: Counter[int] = field(default_factory=Counter)
    per_image: list[int] = field(default_factory=list)
    sides: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    positions: np.ndarray = field(default_factory=lambda: np.zeros(_POSITION_CELLS, dtype=int))
    image_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    def size_counts(self) -> list[int]:
        """Objects by `SIZE_EDGES`."""
        return _counts(np.sqrt(self.sides.prod(axis=1)), SIZE_EDGES)

    def aspect_counts(self) -> list[int]:
        """Objects by `ASPECT_EDGES`; boxes without area are left out."""
        sides = self.sides[(self.sides > 0).all(axis=1)]
        return _counts(sides[:, 0] / sides[:, 1], ASPECT_EDGES)


def measure(content: Content) -> dict[str, SplitStats]:
    """Numbers of every split."""
    return {split: _measure_split(records) for split, records in content.splits.items()}


def _measure_split(records: Sequence[Mapping[str, Any]]) -> SplitStats:
    stats = SplitStats(images=len(records))
    sides = []
    for record in records:
        size = int(record["width"]), int(record["height"])
        stats.image_sizes[size] += 1
        objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        stats.crowds += len(record["annotations"]) - len(objects)
        stats.without_objects += not objects
        stats.per_image.append(len(objects))
        stats.images_of.update({int(a["category_id"]) for a in objects})
        for annotation in objects:
            stats.objects[int(annotation["category_id"])] += 1
            stats.kinds.update(_kinds(annotation))
            x0, y0, x1, y1 = upright_box(annotation)
            sides.append((abs(x1 - x0), abs(y1 - y0)))
            row, column = _cell((x0 + x1) / 2, (y0 + y1) / 2, size)
            stats.positions[row, column] += 1
    stats.sides = np.array(sides, dtype=np.float64).reshape(-1, 2)
    return stats


def _kinds(annotation: Mapping[str, Any]) -> list[str]:
    kinds = []
    segmentation = annotation.get("segmentation")
    if segmentation is not None:
        kinds.append("polygons" if isinstance(segmentation, list) else "run lengths")
    if annotation.get("keypoints") is not None:
        kinds.append("keypoints")
    if len(annotation["bbox"]) == 5:
        kinds.append("rotated boxes")
    return kinds


def _cell(x: float, y: float, size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = _POSITION_CELLS
    column, row = int(x / size[0] * columns), int(y / size[1] * rows)
    return min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)


def _counts(values: np.ndarray, edges: Sequence[float]) -> list[int]:
    return np.histogram(values, bins=np.array(edges))[0].tolist()


def class_table(
    stats: Mapping[str, SplitStats], classes: Sequence[str]
) -> list[tuple[str, list[int], list[int]]]:
    """(name, objects of each split, images of each split), the most frequent first."""
    rows = [
        (name, [s.objects[i] for s in stats.values()], [s.images_of[i] for s in stats.values()])
        for i, name in enumerate(classes)
    ]
    return sorted(rows, key=lambda row: (-sum(row[1]), row[0]))


def warnings_of(stats: Mapping[str, SplitStats], classes: Sequence[str]) -> list[str]:
    """What will make training or evaluation hard, in sentences."""
    said = []
    table = class_table(stats, classes)
    for position, split in enumerate(stats):
        absent = [name for name, objects, _ in table if objects[position] == 0]
        if absent and len(absent) < len(classes):
            said.append(f"{split} shows nothing of {_some(absent)}.")
    first = next(iter(stats.values()))
    rare = [name for i, name in enumerate(classes) if 0 < first.images_of[i] < _FEW_IMAGES]
    if rare:
        said.append(f"Fewer than {_FEW_IMAGES} images of {next(iter(stats))} show {_some(rare)}.")
    counts = [sum(objects) for _, objects, _ in table if sum(objects)]
    if len(counts) > 1 and counts[0] >= 20 * counts[-1]:
        said.append(
            f"The most frequent class has {counts[0] / counts[-1]:.0f} times as many objects as "
            "the rarest; SAMPLER_TRAIN: RepeatFactorTrainingSampler shows rare ones more often."
        )
    sides = np.concatenate([s.sides for s in stats.values()])
    flat = int((sides < 1).any(axis=1).sum())
    if flat:
        said.append(f"{flat} boxes are thinner than a pixel.")
    return said


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more classes" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
