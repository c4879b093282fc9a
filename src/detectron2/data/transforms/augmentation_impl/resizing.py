"""Resizes: to a fixed size, by the shorter edge, by a scale."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image

from detectron2.data.transforms.augmentation import Augmentation
from detectron2.data.transforms.transform import ResizeTransform

__all__ = [
    "RandomResize",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]


BILINEAR = Image.Resampling.BILINEAR


class Resize(Augmentation):
    """Resize to a fixed size, whatever the aspect ratio."""

    def __init__(self, shape: int | Sequence[int], interp: int = BILINEAR) -> None:
        """
        Args:
            shape: (h, w), or one number for both.
            interp: a Pillow resampling filter.
        """
        if isinstance(shape, int):
            shape = (shape, shape)
        shape = tuple(shape)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Resize so that the shorter edge gets a drawn length; the aspect ratio stays.

    If the longer edge then exceeds `max_size`, the image is made smaller until it does not.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = BILINEAR,
    ) -> None:
        """
        Args:
            short_edge_length: with style "range" the smallest and largest length, with "choice"
                the lengths to choose from; one number is always that length. 0 leaves the image
                as it is.
            max_size: largest length of the longer edge.
            sample_style: "range" or "choice".
            interp: a Pillow resampling filter.

        Raises:
            ValueError: an unknown style, or a range that is not two numbers.
        """
        super().__init__()
        if sample_style not in ("range", "choice"):
            raise ValueError(f"sample_style is {sample_style!r}; use 'range' or 'choice'.")
        self.is_range = sample_style == "range"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        if self.is_range and len(short_edge_length) != 2:
            raise ValueError(
                f"With sample_style='range', short_edge_length must be (smallest, largest), got "
                f"{short_edge_length}; use sample_style='choice' to choose between lengths."
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        if self.is_range:
            low, high = self.short_edge_length
            size = np.random.randint(low, high + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        new_h, new_w = self.get_output_shape(h, w, size, self.max_size)
        return ResizeTransform(h, w, new_h, new_w, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """(h, w) of an (oldh, oldw) image after resizing, rounded to integers of at least 1."""
        scale = short_edge_length * 1.0 / min(oldh, oldw)
        h, w = scale * oldh, scale * oldw
        longest = max(h, w)
        if longest > max_size:
            h, w = h * (max_size * 1.0 / longest), w * (max_size * 1.0 / longest)
        return max(int(h + 0.5), 1), max(int(w + 0.5), 1)


class ResizeScale(Augmentation):
    """Large-scale jitter: fit the image into a target size times a random scale.

    Usually followed by `FixedSizeCrop` (Simple Copy-Paste paper, https://arxiv.org/abs/2012.07177).
    """

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = BILINEAR,
    ) -> None:
        super().__init__()
        self._init(locals())

    def _get_resize(self, image: np.ndarray, scale: float) -> Transform:
        h, w = image.shape[:2]
        ratio = min(self.target_height * scale / h, self.target_width * scale / w)
        new_h, new_w = (max(int(side), 1) for side in np.round(np.array([h, w]) * ratio))
        return ResizeTransform(h, w, new_h, new_w, self.interp)

    def get_transform(self, image: np.ndarray) -> Transform:
        return self._get_resize(image, np.random.uniform(self.min_scale, self.max_scale))


class RandomResize(Augmentation):
    """Resize to one of several fixed sizes."""

    def __init__(self, shape_list: Sequence[tuple[int, int]], interp: int = BILINEAR) -> None:
        """
        Args:
            shape_list: (h, w) to choose from.
            interp: a Pillow resampling filter.
        """
        self.shape_list = shape_list
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = self.shape_list[np.random.choice(len(self.shape_list))]
        return ResizeTransform(*image.shape[:2], h, w, self.interp)
