"""DefaultTrainer with the mapper, schedule and evaluators of Panoptic-DeepLab."""

from __future__ import annotations

import os
from typing import Any

from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, DatasetEvaluators
from detectron2.projects.deeplab.trainer import DeepLabTrainer
from detectron2.projects.panoptic_deeplab.dataset_mapper import PanopticDeeplabDatasetMapper

__all__ = ["PanopticDeepLabTrainer"]

# Panoptic validation set -> the one with boxes and masks of its things.
_INSTANCES_OF = {
    "coco_2017_val_panoptic": "coco_2017_val",
    "coco_2017_val_100_panoptic": "coco_2017_val_100",
}


class PanopticDeepLabTrainer(DeepLabTrainer):
    """Trains the configs of Panoptic-DeepLab; SOLVER.OPTIMIZER names the optimizer."""

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        """Batches of `PanopticDeeplabDatasetMapper`."""
        return build_detection_train_loader(cfg, mapper=PanopticDeeplabDatasetMapper(cfg))

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> Any:
        """Panoptic quality and, where it can be had, the AP of instances.

        COCO's panoptic annotations have no semantic label images, so none are asked for.
        """
        if MetadataCatalog.get(dataset_name).get("evaluator_type") != "coco_panoptic_seg":
            return super().build_evaluator(cfg, dataset_name)
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        evaluators: list[Any] = [COCOPanopticEvaluator(dataset_name, folder)]
        if dataset_name in _INSTANCES_OF:
            evaluators.append(COCOEvaluator(_INSTANCES_OF[dataset_name], output_dir=folder))
        return DatasetEvaluators(evaluators)
