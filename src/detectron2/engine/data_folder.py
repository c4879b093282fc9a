"""Training and evaluating on a folder: what its data say about the config."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data._read_once import ReadAhead
from detectron2.data.datasets.auto import (
    ALL,
    FolderDataset,
    RegisteredDataset,
    recognize,
    register,
    with_classes,
)
from detectron2.data.metadata_file import METADATA_FILE, load_metadata
from detectron2.engine.config_edits import ConfigEdits, YacsEdits
from detectron2.engine.data_recipe import BoxStatistics, choose, statistics_of
from detectron2.structures import BoxMode

__all__ = ["DataFolder", "long_schedule", "read_data_folder"]

Record = dict[str, Any]

# A schedule that shows every image more often than this is worth a word; the schedules for COCO
# show each 12 to 37 times, small datasets need more.
LONG, ENOUGH = 500, 100

_MASKS, _KEYPOINTS, _BOXES = (
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
)


@dataclass(frozen=True)
class DataFolder:
    """A recognised folder and what its annotations have.

    Attributes:
        found: the dataset.
        images: split to number of images.
        masks: some annotations have a segmentation.
        run_lengths: some segmentations are not polygons.
        keypoints: names of the keypoints.
        statistics: of the images and boxes to train on.
    """

    found: FolderDataset
    images: dict[str, int]
    masks: bool
    run_lengths: bool
    keypoints: list[str]
    statistics: BoxStatistics

    def suggested_config(self) -> str:
        """A config of the zoo that learns what there is."""
        if self.keypoints:
            return _KEYPOINTS
        return _MASKS if self.masks else _BOXES

    def apply(self, edits: ConfigEdits, for_training: bool, processes: int = 1) -> list[str]:
        """Register the data, fit the config to it, and say in sentences what was done.

        Size of images, anchors and schedule of a LazyConfig stay: it has no one place for them.

        Args:
            edits: of the config.
            for_training: False if the data are only evaluated on.
            processes: GPUs that train.

        Raises:
            ValueError: the model learns what the data do not have.
        """
        self._check(edits, for_training)
        said = [self._summary(), *self.found.notes]
        found = self.found
        if found.rotated and not edits.has_rotated_boxes():
            said.append("The model has upright boxes: those around the rotated boxes are used.")
            found = _upright(found)
        dataset = register(found, found.folder.resolve().name)
        edits.set_categories(
            [{"name": name, "keypoints": self.keypoints} for name in found.classes]
        )
        said.append(f"The model gets {len(found.classes)} classes: {_some(found.classes)}.")
        if self.run_lengths and edits.wants_masks():
            edits.set_mask_format("bitmask")
            said.append("Some masks are not polygons: masks are loaded as bitmaps.")
        said += _set_splits(edits, dataset, for_training)
        if for_training and isinstance(edits, YacsEdits) and self.statistics.images:
            said += choose(edits.cfg, self.statistics, processes)
        return said

    def _check(self, edits: ConfigEdits, for_training: bool) -> None:
        if not for_training:
            return
        if edits.wants_masks() and not self.masks:
            raise ValueError(
                f"The model learns masks, but the annotations in {str(self.found.folder)!r} have "
                f"none. Take a config without masks, such as {_BOXES}, or add "
                "--set MODEL.MASK_ON=False."
            )
        if edits.wants_keypoints() and not self.keypoints:
            raise ValueError(
                f"The model learns keypoints, but the annotations in {str(self.found.folder)!r} "
                f"have none. Take another config, such as {_MASKS if self.masks else _BOXES}."
            )

    def _summary(self) -> str:
        counts = ", ".join(f"{count} images in {split}" for split, count in self.images.items())
        return f"{self.found.folder}: {self.found.format}, {counts}."


def read_data_folder(folder: Path, weights: str | None = None) -> DataFolder:
    """Recognise a folder and look at its annotations.

    Args:
        folder: in a format that `recognize` knows.
        weights: checkpoint to evaluate; class names beside it give the order of classes.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not recognised, broken, or has classes that the checkpoint lacks.
    """
    found = recognize(folder)
    beside = None if weights is None else Path(weights).parent / METADATA_FILE
    if beside is not None and beside.is_file():
        found = with_classes(found, load_metadata(beside).get("thing_classes", found.classes))
    images, kinds = {}, set()
    statistics = statistics_of([])
    splits = {split: ReadAhead(read) for split, read in found.splits.items()}
    found = dataclasses.replace(found, splits=splits)
    for split, read in splits.items():
        records = read.look()
        images[split] = len(records)
        if split in ("train", ALL):
            statistics = statistics_of(records)
        kinds |= {
            type(annotation.get("segmentation"))
            for record in records
            for annotation in record["annotations"]
            if not annotation.get("iscrowd", 0)
        }
    return DataFolder(
        found=found,
        images=images,
        masks=bool(kinds & {list, dict}),
        run_lengths=dict in kinds,
        keypoints=list(found.metadata.get("keypoint_names", [])),
        statistics=statistics,
    )


def long_schedule(cfg: Any, folder: DataFolder) -> str | None:
    """A sentence, if a YAML config trains far longer on a folder than it is worth."""
    images = folder.images.get("train", folder.images.get(ALL, 0))
    if not isinstance(cfg, CfgNode) or not images:
        return None
    iterations, batch = cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH
    rounds = iterations * batch / images
    if rounds <= LONG:
        return None
    enough = max(100, math.ceil(ENOUGH * images / batch / 100) * 100)
    return (
        f"The schedule is one for large datasets: {iterations} iterations of {batch} images show "
        f"each of the {images} images {rounds:.0f} times. --set SOLVER.MAX_ITER={enough} "
        f"shows each about {enough * batch / images:.0f} times."
    )


def _set_splits(edits: ConfigEdits, dataset: RegisteredDataset, for_training: bool) -> list[str]:
    if not for_training:
        # A folder without splits is evaluated as a whole.
        edits.set_datasets(test=dataset.val or dataset.train)
        return [f"Evaluates on {dataset.val or dataset.train}."]
    edits.set_datasets(train=dataset.train, test=dataset.val)
    if dataset.val is None:
        return [
            f"Trains on {dataset.train}. There is nothing to evaluate on: "
            "'detectron2 dataset split' sets a part of the images aside."
        ]
    return [f"Trains on {dataset.train}, evaluates on {dataset.val}."]


def _upright(found: FolderDataset) -> FolderDataset:
    splits: dict[str, Callable[[], list[Record]]] = {
        split: functools.partial(_read_upright, read) for split, read in found.splits.items()
    }
    metadata = {s: {"image_root": m["image_root"]} for s, m in found.split_metadata.items()}
    return dataclasses.replace(found, splits=splits, split_metadata=metadata, rotated=False)


def _read_upright(read: Callable[[], list[Record]]) -> list[Record]:
    records = read()
    for record in records:
        for annotation in record["annotations"]:
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            annotation.update(bbox=list(box), bbox_mode=BoxMode.XYXY_ABS)
    return records


def _some(names: Any) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
