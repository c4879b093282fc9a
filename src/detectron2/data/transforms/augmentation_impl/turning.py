"""Flips, rotations, and doing something by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import HFlipTransform, NoOpTransform, Transform, VFlipTransform

from detectron2.data.transforms.augmentation import AugInput, Augmentation, _transform_to_aug
from detectron2.data.transforms.transform import RotationTransform

__all__ = [
    "RandomApply",
    "RandomFlip",
    "RandomRotation",
]


class RandomApply(Augmentation):
    """Use an augmentation (or a transform) with some probability, else do nothing."""

    def __init__(self, tfm_or_aug: Transform | Augmentation, prob: float = 0.5) -> None:
        """
        Raises:
            AssertionError: `prob` is no probability.
        """
        super().__init__()
        if not 0.0 <= prob <= 1.0:
            raise AssertionError(f"prob={prob} is no probability; it lies between 0 and 1.")
        self.aug = _transform_to_aug(tfm_or_aug)
        self.prob = prob

    def _chosen(self) -> bool:
        return bool(self._rand_range() < self.prob)

    def get_transform(self, *args: object) -> Transform:
        return self.aug.get_transform(*args) if self._chosen() else NoOpTransform()

    def __call__(self, aug_input: AugInput) -> Transform:
        return self.aug(aug_input) if self._chosen() else NoOpTransform()


class RandomFlip(Augmentation):
    """Mirror the image with some probability, in one direction."""

    def __init__(
        self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False
    ) -> None:
        """
        Raises:
            ValueError: both directions or none; for both, use two augmentations.
        """
        super().__init__()
        if horizontal == vertical:
            raise ValueError(
                f"horizontal={horizontal} and vertical={vertical}: a RandomFlip has one "
                "direction. Use two of them to flip in both."
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        if not self._rand_range() < self.prob:
            return NoOpTransform()
        return HFlipTransform(w) if self.horizontal else VFlipTransform(h)


class RandomRotation(Augmentation):
    """Rotate counter-clockwise by a random angle about a random centre."""

    def __init__(
        self,
        angle: float | Sequence[float],
        expand: bool = True,
        center: Sequence[Sequence[float]] | None = None,
        sample_style: str = "range",
        interp: int | None = None,
    ) -> None:
        """
        Args:
            angle: degrees; with style "range" the smallest and largest, with "choice" those to
                choose from.
            expand: True makes the result large enough for the whole rotated image.
            center: with "range" ((x0, y0), (x1, y1)), with "choice" the (x, y) to choose from,
                all as fractions of width and height; None rotates about the middle.
            sample_style: "range" or "choice".
            interp: 0 nearest, 1 bilinear; None means bilinear.

        Raises:
            ValueError: an unknown style, or a range that is not two values.
        """
        super().__init__()
        if sample_style not in ("range", "choice"):
            raise ValueError(f"sample_style is {sample_style!r}; use 'range' or 'choice'.")
        self.is_range = sample_style == "range"
        if isinstance(angle, (float, int)):
            angle = (angle, angle)
        if center is not None and isinstance(center[0], (float, int)):
            center = (center, center)  # type: ignore[assignment]
        for name, values in (("angle", angle), ("center", center)):
            if self.is_range and values is not None and len(values) != 2:
                raise ValueError(f"With sample_style='range', {name}={values} must be two values.")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        center = None
        if self.is_range:
            angle = np.random.uniform(self.angle[0], self.angle[1])
            if self.center is not None:
                (x0, y0), (x1, y1) = self.center
                center = (np.random.uniform(x0, x1), np.random.uniform(y0, y1))
        else:
            angle = np.random.choice(self.angle)
            if self.center is not None:
                center = self.center[np.random.choice(len(self.center))]
        if center is not None:
            center = (w * center[0], h * center[1])
        if angle % 360 == 0:
            return NoOpTransform()
        return RotationTransform(h, w, angle, self.expand, center, self.interp)
