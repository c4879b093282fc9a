"""The colours of SSD's training: brightness, contrast, saturation and hue at random.

SSD: Single Shot MultiBox Detector (Liu et al., 2016), after Howard (2013).
"""

from __future__ import annotations

import random

import numpy as np
from fvcore.transforms.transform import Transform

__all__ = ["ColorAugSSDTransform"]


class ColorAugSSDTransform(Transform):
    """Other colours each time it is applied; coordinates and segmentations stay."""

    def __init__(
        self,
        img_format: str,
        brightness_delta: float = 32,
        contrast_low: float = 0.5,
        contrast_high: float = 1.5,
        saturation_low: float = 0.5,
        saturation_high: float = 1.5,
        hue_delta: int = 18,
    ) -> None:
        """
        Args:
            img_format: BGR or RGB, the order of the channels.
            brightness_delta: at most this much is added or taken away, of 255.
            contrast_low, contrast_high: what pixels are multiplied by.
            saturation_low, saturation_high: what saturations are multiplied by.
            hue_delta: at most this much is added to hues or taken away, in units of two degrees.
        """
        super().__init__()
        if img_format not in ("BGR", "RGB"):
            raise AssertionError(f"img_format is {img_format!r}; it must be 'BGR' or 'RGB'.")
        self.is_rgb = img_format == "RGB"
        self._set_attributes(locals())

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def apply_image(self, img: np.ndarray, interp: str | None = None) -> np.ndarray:
        """The image, (H, W, 3) uint8, in other colours; `interp` is not used."""
        rgb = img if self.is_rgb else img[:, :, ::-1]
        rgb = self.brightness(rgb)
        if random.randrange(2):
            order = (self.contrast, self.saturation, self.hue)
        else:
            order = (self.saturation, self.hue, self.contrast)
        for change in order:
            rgb = change(rgb)
        return np.ascontiguousarray(rgb if self.is_rgb else rgb[:, :, ::-1])

    def brightness(self, img: np.ndarray) -> np.ndarray:
        if not random.randrange(2):
            return img
        delta = random.uniform(-self.brightness_delta, self.brightness_delta)
        return _as_pixels(img.astype(np.float32) + np.float32(delta))

    def contrast(self, img: np.ndarray) -> np.ndarray:
        if not random.randrange(2):
            return img
        factor = random.uniform(self.contrast_low, self.contrast_high)
        return _as_pixels(img.astype(np.float32) * np.float32(factor))

    def saturation(self, img: np.ndarray) -> np.ndarray:
        if not random.randrange(2):
            return img
        factor = np.float32(random.uniform(self.saturation_low, self.saturation_high))
        pixels = img.astype(np.float32)
        value = pixels.max(axis=2, keepdims=True)
        # Hue and value stay where the distances from the value are multiplied by one number. A
        # saturation of more than all is all.
        widest = value - pixels.min(axis=2, keepdims=True)
        factors = np.minimum(factor, value / np.maximum(widest, 1))
        return _as_pixels(value - (value - pixels) * factors)

    def hue(self, img: np.ndarray) -> np.ndarray:
        if not random.randrange(2):
            return img
        turn = 2 * random.randint(-self.hue_delta, self.hue_delta)
        return _as_pixels(_turned(img.astype(np.float32), turn))


def _as_pixels(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def _turned(rgb: np.ndarray, degrees: float) -> np.ndarray:
    """Hues of the hexcone model (Smith, 1978) moved on, value and saturation as they were.

    Args:
        rgb: (H, W, 3) float32.
    """
    red, green, blue = rgb[:, :, 0], rgb[:, :, 1], rgb[:, :, 2]
    value = rgb.max(axis=2)
    chroma = value - rgb.min(axis=2)
    width = np.maximum(chroma, 1)  # whole numbers: 0 or at least 1
    sextant = np.where(
        value == red,
        (green - blue) / width,
        np.where(value == green, (blue - red) / width + 2, (red - green) / width + 4),
    )
    sextant += degrees / 60
    result = np.empty_like(rgb)
    for channel, offset in enumerate((5, 3, 1)):
        place = (sextant + offset) % 6
        result[:, :, channel] = value - chroma * np.minimum(place, 4 - place).clip(0, 1)
    return result
