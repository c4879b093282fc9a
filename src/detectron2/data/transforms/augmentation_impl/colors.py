"""Changes of colour."""

from __future__ import annotations

import numpy as np
from fvcore.transforms.transform import BlendTransform, Transform

from detectron2.data.transforms.augmentation import Augmentation

__all__ = [
    "RandomBrightness",
    "RandomContrast",
    "RandomLighting",
    "RandomSaturation",
]

# Luma of RGB after ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114])

# Principal components of the RGB values of ImageNet, AlexNet paper, section 4.1.
_RGB_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_RGB_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])


class RandomContrast(Augmentation):
    """Blend with the image's mean: weight 0 gives plain grey, 1 the image, above more contrast."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=image.mean(), src_weight=1 - weight, dst_weight=weight)


class RandomBrightness(Augmentation):
    """Blend with black: weight 0 gives black, 1 the image, above brighter."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=0, src_weight=1 - weight, dst_weight=weight)


class RandomSaturation(Augmentation):
    """Blend an RGB image with its greys: weight 0 gives grey, 1 the image, above more colour."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        if image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"RandomSaturation wants an (H, W, 3) RGB image, got {image.shape}.")
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        grey = image.dot(_LUMA)[:, :, np.newaxis]
        return BlendTransform(src_image=grey, src_weight=1 - weight, dst_weight=weight)


class RandomLighting(Augmentation):
    """Shift an RGB image along the principal components of ImageNet's colours.

    AlexNet paper (https://dl.acm.org/doi/10.1145/3065386), section 4.1.
    """

    def __init__(self, scale: float) -> None:
        """
        Args:
            scale: standard deviation of the shift, in grey values.
        """
        super().__init__()
        self._init(locals())
        self.eigen_vecs = _RGB_EIGENVECTORS
        self.eigen_vals = _RGB_EIGENVALUES

    def get_transform(self, image: np.ndarray) -> Transform:
        if image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"RandomLighting wants an (H, W, 3) RGB image, got {image.shape}.")
        weights = np.random.normal(scale=self.scale, size=3)
        shift = self.eigen_vecs.dot(weights * self.eigen_vals)
        return BlendTransform(src_image=shift, src_weight=1.0, dst_weight=1.0)
