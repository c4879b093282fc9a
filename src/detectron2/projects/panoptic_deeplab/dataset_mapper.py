"""From a record of a panoptic dataset to an input of Panoptic-DeepLab."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.data import RANDOM_CROP
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.projects.panoptic_deeplab.config import TARGET_GENERATOR
from detectron2.projects.panoptic_deeplab.target_generator import (
    PanopticDeepLabTargetGenerator,
    panoptic_ids,
)

__all__ = ["PanopticDeeplabDatasetMapper"]

logger = logging.getLogger(__name__)


class PanopticDeeplabDatasetMapper:
    """Reads image and panoptic label image, augments both, and makes the targets of training."""

    @configurable
    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        panoptic_target_generator: Callable[[np.ndarray, list[dict[str, Any]]], dict[str, Any]],
    ) -> None:
        """
        Args:
            augmentations: in the order in which they are applied.
            image_format: see `detection_utils.read_image`.
            panoptic_target_generator: from (H, W) segment ids and the record's "segments_info" to
                further entries of the input.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.panoptic_target_generator = panoptic_target_generator
        logger.info("Augmentations used in training: %s", augmentations)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        resize, *others = utils.build_augmentation(cfg, is_train=True)
        crops = []
        if lookup(cfg, "INPUT.CROP.ENABLED"):
            crops = [T.RandomCrop(**read_arguments(cfg, RANDOM_CROP))]
        metadata = MetadataCatalog.get(lookup(cfg, "DATASETS.TRAIN")[0])
        generator = PanopticDeepLabTargetGenerator(
            ignore_label=metadata.ignore_label,
            thing_ids=list(metadata.thing_dataset_id_to_contiguous_id.values()),
            **read_arguments(cfg, TARGET_GENERATOR),
        )
        return {
            "augmentations": [resize, *crops, *others],
            "image_format": lookup(cfg, "INPUT.FORMAT"),
            "panoptic_target_generator": generator,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict: a record with "file_name", "pan_seg_file_name" and "segments_info"; it is
                not changed.

        Returns:
            The record with "image", a (C, H, W) tensor, and what the target generator makes.

        Raises:
            ValueError: the record has no panoptic label image.
            SampleError: image or label image cannot be used.
        """
        record = dict(dataset_dict)
        if "pan_seg_file_name" not in record or "segments_info" not in record:
            raise ValueError(
                f"The record of {record.get('file_name')!r} has no 'pan_seg_file_name' or no "
                "'segments_info'; DATASETS.TRAIN must name a panoptic dataset."
            )
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        label_file = record.pop("pan_seg_file_name")
        colors = utils.read_image(label_file, "RGB")
        if colors.shape[:2] != image.shape[:2]:
            raise utils.SizeMismatchError(
                f"The label image {label_file!r} is {colors.shape[1]}x{colors.shape[0]} pixels and "
                f"its image {record['file_name']!r} {image.shape[1]}x{image.shape[0]}."
            )
        aug_input = T.AugInput(image, sem_seg=colors)
        self.augmentations(aug_input)
        record["image"] = torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        ids = panoptic_ids(aug_input.sem_seg)
        record.update(self.panoptic_target_generator(ids, record["segments_info"]))
        return record
