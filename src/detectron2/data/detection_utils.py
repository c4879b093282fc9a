"""Building blocks of data mappers: images, annotations, augmentations.

A mapper for another task is written from these functions; see `DatasetMapper` for how they are
put together.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.data import LARGE_SCALE_JITTER, RESIZE_TEST, RESIZE_TRAIN
from detectron2.data import transforms as T
from detectron2.data._annotations import (
    annotations_to_instances,
    annotations_to_instances_rotated,
    filter_empty_instances,
    get_bbox,
    transform_instance_annotations,
    transform_keypoint_annotations,
    transform_proposals,
)
from detectron2.data._image_io import (
    _M_RGB2YUV,
    _M_YUV2RGB,
    _apply_exif_orientation,
    check_image_size,
    convert_image_to_rgb,
    convert_PIL_to_numpy,
    read_image,
)
from detectron2.data.catalog import MetadataCatalog
from detectron2.data.errors import SampleError, SizeMismatchError, UnreadableImageError

__all__ = [
    "_M_RGB2YUV",
    "_M_YUV2RGB",
    "SampleError",
    "SizeMismatchError",
    "UnreadableImageError",
    "_apply_exif_orientation",
    "annotations_to_instances",
    "annotations_to_instances_rotated",
    "build_augmentation",
    "build_transform_gen",
    "check_image_size",
    "check_metadata_consistency",
    "convert_PIL_to_numpy",
    "convert_image_to_rgb",
    "create_keypoint_hflip_indices",
    "filter_empty_instances",
    "gen_crop_transform_with_instance",
    "get_bbox",
    "get_fed_loss_cls_weights",
    "read_image",
    "transform_instance_annotations",
    "transform_keypoint_annotations",
    "transform_proposals",
]

logger = logging.getLogger(__name__)


def create_keypoint_hflip_indices(dataset_names: str | Sequence[str]) -> list[int]:
    """Where the keypoints of a mirrored person are found: entry i is the partner of keypoint i.

    Args:
        dataset_names: datasets that agree on "keypoint_names" and "keypoint_flip_map".
    """
    if isinstance(dataset_names, str):
        dataset_names = [dataset_names]
    check_metadata_consistency("keypoint_names", dataset_names)
    check_metadata_consistency("keypoint_flip_map", dataset_names)
    metadata = MetadataCatalog.get(dataset_names[0])
    partner = dict(metadata.keypoint_flip_map)
    partner.update({right: left for left, right in partner.items()})
    names = list(metadata.keypoint_names)
    return [names.index(partner.get(name, name)) for name in names]


def get_fed_loss_cls_weights(
    dataset_names: str | Sequence[str], freq_weight_power: float = 1.0
) -> torch.Tensor:
    """(number of classes,) weights of sampling classes for the federated loss.

    Args:
        dataset_names: datasets that agree on "class_image_count", the number of training images
            that show each class.
        freq_weight_power: exponent of that number.
    """
    if isinstance(dataset_names, str):
        dataset_names = [dataset_names]
    check_metadata_consistency("class_image_count", dataset_names)
    counts = MetadataCatalog.get(dataset_names[0]).class_image_count
    by_class = sorted(counts, key=lambda entry: entry["id"])
    images = torch.tensor([entry["image_count"] for entry in by_class])
    return images.float() ** freq_weight_power


def gen_crop_transform_with_instance(
    crop_size: tuple[int, int], image_size: tuple[int, int], instance: dict[str, Any]
) -> T.CropTransform:
    """A random window that contains the centre of an object's box.

    Args:
        crop_size: (h, w) of the window.
        image_size: (h, w).
        instance: an annotation; its box must be in pixels.

    Raises:
        AssertionError: the window is larger than the image, or the box's centre lies outside.
    """
    crop, size = np.asarray(crop_size), np.asarray(image_size)
    x0, y0, x1, y1 = get_bbox(instance)
    center = np.array([(y0 + y1) / 2, (x0 + x1) / 2])
    if (crop > size).any():
        raise AssertionError(
            f"The crop of (height, width) {tuple(crop_size)} is larger than the image "
            f"{tuple(image_size)}; choose a smaller crop."
        )
    if (center > size).any():
        raise AssertionError(
            f"The centre of the box {[float(v) for v in (x0, y0, x1, y1)]} lies outside of the "
            f"image of (height, width) {tuple(image_size)}; correct the annotation."
        )
    # The window must begin before the centre, and end after it.
    first = np.maximum(np.floor(center).astype(int) - crop, 0)
    last = np.minimum(size - crop, np.ceil(center).astype(int))
    top = np.random.randint(first[0], last[0] + 1)
    left = np.random.randint(first[1], last[1] + 1)
    return T.CropTransform(left, top, int(crop[1]), int(crop[0]))


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Check that datasets that are used together agree on an entry of their metadata.

    Raises:
        ValueError: they do not; the first that differs is named.
        AttributeError: one has no such entry.
    """
    if len(dataset_names) == 0:
        return
    values = [getattr(MetadataCatalog.get(name), key) for name in dataset_names]
    for name, value in zip(dataset_names, values):
        if value != values[0]:
            raise ValueError(
                f"The datasets {dataset_names[0]!r} and {name!r} have different {key!r}: "
                f"{_shorten(values[0])} against {_shorten(value)}. Datasets that are used "
                "together must share it; map one to the other or use one of them."
            )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def build_augmentation(cfg: Any, is_train: bool) -> list[T.Augmentation]:
    """The default augmentations of a yacs config: resizing, and flipping in training.

    ``INPUT.CROP`` is not among them: `DatasetMapper.from_config` puts it in front, because it
    also changes how boxes are computed.
    """
    if not is_train:
        return [T.ResizeShortestEdge(**read_arguments(cfg, RESIZE_TEST), sample_style="choice")]
    augmentations: list[T.Augmentation] = [
        T.LargeScaleJitter(**read_arguments(cfg, LARGE_SCALE_JITTER))
        if lookup(cfg, "INPUT.JITTER.ENABLED")
        else T.ResizeShortestEdge(**read_arguments(cfg, RESIZE_TRAIN))
    ]
    direction = lookup(cfg, "INPUT.RANDOM_FLIP")
    if direction not in ("none", "horizontal", "vertical"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP is {direction!r}; use 'horizontal', 'vertical' or 'none'."
        )
    if direction != "none":
        augmentations.append(
            T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")
        )
    return augmentations


build_transform_gen = build_augmentation
