"""Cityscapes metrics of instances and semantic segmentation, computed without cityscapesscripts."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.evaluation.cityscapes_metrics import (
    ImageMatches,
    SemanticCounts,
    instance_average_precision,
    match_instances,
)
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

__all__ = [
    "CityscapesEvaluator",
    "CityscapesInstanceEvaluator",
    "CityscapesSemSegEvaluator",
    "DatasetEvaluator",
    "MetadataCatalog",
]

_IMAGE_SUFFIX = "_leftImg8bit.png"
_NAME_OF_ID = {category["id"]: category["name"] for category in CITYSCAPES_CATEGORIES}
_ID_OF_NAME = {name: label for label, name in _NAME_OF_ID.items()}


class CityscapesEvaluator(DatasetEvaluator):
    """Base of both: compares each image with the files of its ground truth as it comes."""

    def __init__(self, dataset_name: str) -> None:
        """
        Args:
            dataset_name: registered dataset whose metadata has gt_dir and thing_classes, and
                whose images are called "<city>_..._leftImg8bit.png".
        """
        self._metadata = MetadataCatalog.get(dataset_name)
        self._cpu_device = torch.device("cpu")
        self._logger = logging.getLogger(__name__)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""

    def _ground_truth(self, file_name: str, kind: str) -> np.ndarray:
        """(H, W) label map of an image.

        Args:
            file_name: of the image.
            kind: "labelIds" or "instanceIds".

        Raises:
            ValueError: the image is not named as those of Cityscapes.
        """
        name = os.path.basename(file_name)
        if not name.endswith(_IMAGE_SUFFIX):
            raise ValueError(
                f"Images of Cityscapes are called *{_IMAGE_SUFFIX}; this is {file_name}."
            )
        stem = name[: -len(_IMAGE_SUFFIX)]
        city = stem.split("_")[0]
        path = os.path.join(self._metadata.gt_dir, city, f"{stem}_gtFine_{kind}.png")
        with PathManager.open(path, "rb") as stream:
            return np.array(Image.open(stream)).astype(np.int32)


class CityscapesInstanceEvaluator(CityscapesEvaluator):
    """AP of instance masks with Cityscapes' protocol."""

    def reset(self) -> None:
        self._matches: list[dict[int, ImageMatches]] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            inputs: records with "file_name".
            outputs: dictionaries with "instances" (scores, pred_classes, pred_masks (N, H, W)).
        """
        names = self._metadata.thing_classes
        for record, output in zip(inputs, outputs):
            instances = output["instances"].to(self._cpu_device)
            truth = self._ground_truth(record["file_name"], "instanceIds")
            masks = np.zeros((0, *truth.shape), dtype=bool)
            if len(instances):
                masks = instances.pred_masks.numpy().astype(bool)
            labels = [_ID_OF_NAME[names[index]] for index in instances.pred_classes.tolist()]
            self._matches.append(
                match_instances(
                    truth,
                    masks,
                    instances.scores.numpy().astype(np.float64),
                    np.array(labels, dtype=np.int64),
                )
            )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """``{"segm": {"AP", "AP50"}}`` in percent; None on other than the main process."""
        comm.synchronize()
        gathered = comm.gather(self._matches)
        if not comm.is_main_process():
            return None
        precisions = instance_average_precision([image for part in gathered for image in part])
        table = [(_NAME_OF_ID[i], 100 * ap.mean(), 100 * ap[0]) for i, ap in precisions.items()]
        self._logger.info(
            "Instance AP by class:\n"
            + tabulate(table, headers=["class", "AP", "AP50"], tablefmt="pipe", floatfmt=".3f")
        )
        present = [ap for ap in precisions.values() if not np.isnan(ap).any()]
        everything = 100 * np.array(present) if present else np.full((1, 10), np.nan)
        metrics = {"AP": float(everything.mean()), "AP50": float(everything[:, 0].mean())}
        return OrderedDict({"segm": metrics})


class CityscapesSemSegEvaluator(CityscapesEvaluator):
    """IoU of semantic segmentation with Cityscapes' protocol."""

    def reset(self) -> None:
        self._counts = SemanticCounts.empty()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            inputs: records with "file_name".
            outputs: dictionaries with "sem_seg", (19, H, W) scores.
        """
        for record, output in zip(inputs, outputs):
            predicted = output["sem_seg"].argmax(dim=0).to(self._cpu_device).numpy()
            id_of_class = np.full(max(len(output["sem_seg"]), 256), 255)
            for category in CITYSCAPES_CATEGORIES:
                id_of_class[category["trainId"]] = category["id"]
            truth = self._ground_truth(record["file_name"], "labelIds")
            instances = self._ground_truth(record["file_name"], "instanceIds")
            self._counts.add_image(id_of_class[predicted], truth & 255, instances)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """``{"sem_seg": {"IoU", "iIoU", "IoU_sup", "iIoU_sup"}}`` in percent.

        IoU is the mean over classes, IoU_sup over categories; iIoU weighs the pixels of an
        instance by the mean size of its class over its own. None on other than the main process.
        """
        comm.synchronize()
        gathered = comm.gather(self._counts)
        if not comm.is_main_process():
            return None
        counts = sum(gathered[1:], start=gathered[0])
        metrics = {name: 100 * value for name, value in counts.metrics().items()}
        return OrderedDict({"sem_seg": metrics})
