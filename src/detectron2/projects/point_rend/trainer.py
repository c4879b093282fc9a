"""DefaultTrainer with the augmentations of semantic PointRend."""

from __future__ import annotations

from typing import Any

from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.engine.defaults import DefaultTrainer
from detectron2.projects.deeplab.trainer import build_sem_seg_augmentations
from detectron2.projects.point_rend.color_augmentation import ColorAugSSDTransform

__all__ = ["PointRendTrainer", "build_point_rend_augmentations"]


def build_point_rend_augmentations(cfg: Any) -> list[T.Augmentation | T.Transform]:
    """Resizing, then the crop and the colours that INPUT asks for, then flipping."""
    augmentations = list(build_sem_seg_augmentations(cfg))
    if cfg.INPUT.COLOR_AUG_SSD:
        # What is cropped away needs no colours.
        place = 2 if cfg.INPUT.CROP.ENABLED else 1
        augmentations.insert(place, ColorAugSSDTransform(cfg.INPUT.FORMAT))
    return augmentations


class PointRendTrainer(DefaultTrainer):
    """Trains the configs of PointRend: semantic maps on crops, instances as `DefaultTrainer`."""

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        if cfg.MODEL.META_ARCHITECTURE != "SemanticSegmentor":
            return super().build_train_loader(cfg)
        augmentations = build_point_rend_augmentations(cfg)
        mapper = DatasetMapper(cfg, is_train=True, augmentations=augmentations)
        return build_detection_train_loader(cfg, mapper=mapper)
