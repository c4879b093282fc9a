"""Crops: windows of a given size, of several categories, around boxes, and beyond the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from fvcore.transforms.transform import (
    CropTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
)

from detectron2.data.transforms.augmentation import Augmentation
from detectron2.data.transforms.transform import ExtentTransform
from detectron2.structures import Boxes, pairwise_iou

__all__ = [
    "FixedSizeCrop",
    "MinIoURandomCrop",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomExtent",
]


class FixedSizeCrop(Augmentation):
    """Crop at a random place to at most a fixed size, then pad right and bottom up to it."""

    def __init__(
        self,
        crop_size: tuple[int, int],
        pad: bool = True,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ) -> None:
        """
        Args:
            crop_size: (h, w).
            pad: False leaves images that are too small as they are.
            pad_value: value of new pixels of the image.
            seg_pad_value: label of new pixels of the segmentation.
        """
        super().__init__()
        self._init(locals())

    def _get_crop(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        room = np.maximum(np.array([h, w]) - np.array(self.crop_size), 0)
        # One number places the crop in both directions, along the diagonal.
        y0, x0 = np.round(room * np.random.uniform(0.0, 1.0)).astype(int)
        crop_h, crop_w = min(h, self.crop_size[0]), min(w, self.crop_size[1])
        return CropTransform(int(x0), int(y0), crop_w, crop_h, w, h)

    def _get_pad(self, image: np.ndarray) -> Transform:
        h, w = (min(have, want) for have, want in zip(image.shape[:2], self.crop_size))
        pad_h, pad_w = self.crop_size[0] - h, self.crop_size[1] - w
        return PadTransform(0, 0, pad_w, pad_h, w, h, self.pad_value, self.seg_pad_value)

    def get_transform(self, image: np.ndarray) -> TransformList:
        transforms = [self._get_crop(image)]
        if self.pad:
            transforms.append(self._get_pad(image))
        return TransformList(transforms)


class RandomCrop(Augmentation):
    """Crop a window of a given kind of size at a random place."""

    def __init__(self, crop_type: str, crop_size: tuple[float, float]) -> None:
        """
        Args:
            crop_type: how `crop_size` = (a, b) gives the size (h, w) of the window in an (H, W)
                image: "relative" (a H, b W); "relative_range" the same with factors drawn from
                [a, 1] and [b, 1]; "absolute" (a, b); "absolute_range" both sides drawn from
                [a, b]. No window is larger than the image.
            crop_size: two numbers.

        Raises:
            AssertionError: an unknown kind.
        """
        super().__init__()
        kinds = ("relative_range", "relative", "absolute", "absolute_range")
        if crop_type not in kinds:
            raise AssertionError(f"crop_type is {crop_type!r}; use one of {', '.join(kinds)}.")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((h, w))
        if crop_h > h or crop_w > w:
            raise ValueError(
                f"The crop of (height, width) {(crop_h, crop_w)} is larger than the image "
                f"{(h, w)}; {self.crop_type} sizes must not exceed it."
            )
        y0 = np.random.randint(h - crop_h + 1)
        x0 = np.random.randint(w - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of a window in an image of `image_size` (h, w); draws numbers for the ranges."""
        h, w = image_size
        if self.crop_type == "relative":
            ratio_h, ratio_w = self.crop_size
            return max(int(h * ratio_h + 0.5), 1), max(int(w * ratio_w + 0.5), 1)
        if self.crop_type == "relative_range":
            smallest = np.asarray(self.crop_size, dtype=np.float32)
            ratio_h, ratio_w = smallest + np.random.rand(2) * (1 - smallest)
            return max(int(h * ratio_h + 0.5), 1), max(int(w * ratio_w + 0.5), 1)
        if self.crop_type == "absolute":
            return min(self.crop_size[0], h), min(self.crop_size[1], w)
        smallest, largest = self.crop_size
        if smallest > largest:
            raise ValueError(f"crop_size={self.crop_size} is no range (smallest, largest).")
        crop_h = np.random.randint(min(h, smallest), min(h, largest) + 1)
        crop_w = np.random.randint(min(w, smallest), min(w, largest) + 1)
        return crop_h, crop_w


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """`RandomCrop` that tries for a window which no single category fills."""

    def __init__(
        self,
        crop_type: str,
        crop_size: tuple[float, float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ) -> None:
        """
        Args:
            crop_type: as for `RandomCrop`.
            crop_size: as for `RandomCrop`.
            single_category_max_area: largest share of the labelled pixels that one category may
                have; 1.0 or more accepts every window. After 10 tries the last window is taken.
            ignored_category: label that does not count.
        """
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        h, w = sem_seg.shape
        for _ in range(10):
            crop_h, crop_w = self.crop_aug.get_crop_size((h, w))
            y0 = np.random.randint(h - crop_h + 1)
            x0 = np.random.randint(w - crop_w + 1)
            if self._is_varied(sem_seg[y0 : y0 + crop_h, x0 : x0 + crop_w]):
                break
        return CropTransform(x0, y0, crop_w, crop_h)

    def _is_varied(self, window: np.ndarray) -> bool:
        labels, counts = np.unique(window, return_counts=True)
        if self.ignored_category is not None:
            counts = counts[labels != self.ignored_category]
        return len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area


class RandomExtent(Augmentation):
    """Cut a random rectangle, which may leave the image; what lies outside is black.

    The result has the size of the rectangle.
    """

    def __init__(self, scale_range: tuple[float, float], shift_range: tuple[float, float]) -> None:
        """
        Args:
            scale_range: smallest and largest size of the rectangle, relative to the image.
            shift_range: (x, y): the rectangle's centre is moved off the middle by up to half of
                these fractions of width and height, either way.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        half = np.array([w, h]) * 0.5 * np.random.uniform(*self.scale_range)
        shift_x = self.shift_range[0] * w * (np.random.rand() - 0.5)
        shift_y = self.shift_range[1] * h * (np.random.rand() - 0.5)
        middle = np.array([0.5 * w + shift_x, 0.5 * h + shift_y])
        x0, y0, x1, y1 = np.concatenate([middle - half, middle + half])
        return ExtentTransform((x0, y0, x1, y1), (int(y1 - y0), int(x1 - x0)))


class MinIoURandomCrop(Augmentation):
    """Crop a window that overlaps every box by at least a drawn IoU (SSD paper, section 2.2).

    The IoU is drawn anew until a window is found; one of the choices is to leave the image alone.
    """

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        mode_trials: int = 1000,
        crop_trials: int = 50,
    ) -> None:
        """
        Args:
            min_ious: IoU thresholds to choose from, besides 0 (any window) and 1 (no crop).
            min_crop_size: smallest side of a window, relative to the image.
            mode_trials: how often a threshold is drawn before giving up and not cropping.
            crop_trials: how many windows are tried for each.
        """
        super().__init__()
        self.min_ious = min_ious
        self.sample_mode = (1, *min_ious, 0)
        self.min_crop_size = min_crop_size
        self.mode_trials = mode_trials
        self.crop_trials = crop_trials

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        """`boxes`: (N, 4) xyxy in pixels of `image`. Without boxes nothing is cropped."""
        if boxes is None:
            return NoOpTransform()
        for _ in range(self.mode_trials):
            min_iou = np.random.choice(self.sample_mode)
            if min_iou == 1:
                return NoOpTransform()
            for _ in range(self.crop_trials):
                left, top, new_w, new_h = self._draw_window(*image.shape[:2])
                window = (int(left), int(top), int(left + new_w), int(top + new_h))
                if new_w > 0 and self._accepts(window, boxes, min_iou):
                    return CropTransform(int(left), int(top), int(new_w), int(new_h))
        return NoOpTransform()

    def _draw_window(self, h: int, w: int) -> tuple[float, float, float, float]:
        """(x0, y0, w, h); all 0 if the draw is longer than 2 to 1."""
        new_w = np.random.uniform(self.min_crop_size * w, w)
        new_h = np.random.uniform(self.min_crop_size * h, h)
        if not 0.5 <= new_h / new_w <= 2:
            return 0.0, 0.0, 0.0, 0.0
        left = np.random.uniform(w - new_w)
        top = np.random.uniform(h - new_h)
        return left, top, new_w, new_h

    def _accepts(
        self, window: tuple[int, int, int, int], boxes: np.ndarray, min_iou: float
    ) -> bool:
        x0, y0, x1, y1 = window
        if x0 == x1 or y0 == y1:
            return False
        iou = pairwise_iou(
            Boxes(torch.tensor([window], dtype=torch.float32)),
            Boxes(torch.as_tensor(np.asarray(boxes), dtype=torch.float32)),
        )
        if iou.numel() == 0:
            return True
        if iou.min() < min_iou:
            return False
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = (centers > (x0, y0)) & (centers < (x1, y1))
        return bool(inside.all(axis=1).any())
