"""DefaultTrainer with DeepLab's schedule and augmentations."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.data import RANDOM_CROP
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.engine.defaults import DefaultTrainer
from detectron2.projects.deeplab.build_solver import build_lr_scheduler

__all__ = ["DeepLabTrainer", "build_sem_seg_augmentations"]


def build_sem_seg_augmentations(cfg: Any) -> list[T.Augmentation]:
    """Resizing, then the crop that INPUT.CROP asks for, then flipping.

    The crop comes after the resizing, so that all crops have the size that the head is made for.
    """
    resize, *others = build_augmentation(cfg, is_train=True)
    if not lookup(cfg, "INPUT.CROP.ENABLED"):
        return [resize, *others]
    crop = T.RandomCrop_CategoryAreaConstraint(
        **read_arguments(cfg, RANDOM_CROP),
        single_category_max_area=lookup(cfg, "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA"),
        ignored_category=lookup(cfg, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE"),
    )
    return [resize, crop, *others]


class DeepLabTrainer(DefaultTrainer):
    """Trains the configs of DeepLabv3 and v3+."""

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        """Batches of crops, see `build_sem_seg_augmentations`."""
        mapper = DatasetMapper(cfg, is_train=True, augmentations=build_sem_seg_augmentations(cfg))
        return build_detection_train_loader(cfg, mapper=mapper)

    @classmethod
    def build_lr_scheduler(cls, cfg: Any, optimizer: Optimizer) -> Any:
        """The schedule of the config, DeepLab's among them."""
        return build_lr_scheduler(cfg, optimizer)
