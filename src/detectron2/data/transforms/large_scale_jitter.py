"""Large-scale jitter: a random zoom into or out of an image, in a frame of fixed size."""

from __future__ import annotations

from detectron2.data.transforms.augmentation import AugmentationList
from detectron2.data.transforms.augmentation_impl import FixedSizeCrop, ResizeScale

__all__ = ["LargeScaleJitter"]


class LargeScaleJitter(AugmentationList):
    """Resize by a random factor relative to a square, then crop or pad to that square.

    (Simple Copy-Paste paper, https://arxiv.org/abs/2012.07177.)
    """

    def __init__(
        self,
        size: int = 1024,
        min_scale: float = 0.1,
        max_scale: float = 2.0,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ) -> None:
        """
        Args:
            size: side of the square, in pixels.
            min_scale: smallest factor; 1 fits the image into the square.
            max_scale: largest factor.
            pad_value: value of new pixels of the image.
            seg_pad_value: label of new pixels of the segmentation.
        """
        super().__init__(
            [
                ResizeScale(min_scale, max_scale, size, size),
                FixedSizeCrop((size, size), True, pad_value, seg_pad_value),
            ]
        )
