"""The augmentations: flips, resizes, crops, rotations and colour changes."""

from detectron2.data.transforms.augmentation_impl.colors import (
    RandomBrightness,
    RandomContrast,
    RandomLighting,
    RandomSaturation,
)
from detectron2.data.transforms.augmentation_impl.cropping import (
    FixedSizeCrop,
    MinIoURandomCrop,
    RandomCrop,
    RandomCrop_CategoryAreaConstraint,
    RandomExtent,
)
from detectron2.data.transforms.augmentation_impl.resizing import (
    RandomResize,
    Resize,
    ResizeScale,
    ResizeShortestEdge,
)
from detectron2.data.transforms.augmentation_impl.turning import (
    RandomApply,
    RandomFlip,
    RandomRotation,
)

__all__ = [
    "FixedSizeCrop",
    "MinIoURandomCrop",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomExtent",
    "RandomFlip",
    "RandomLighting",
    "RandomResize",
    "RandomRotation",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]
