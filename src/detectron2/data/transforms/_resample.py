"""Resizing and affine warping of NumPy images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from detectron2.data.transforms._bilinear_weights import rows_come_first
from detectron2.ops.dispatch import environment_implementation

__all__ = ["resize_float", "resize_nearest", "resize_uint8", "warp_affine"]

# Values in the image; below, calling compiled code saves nothing.
COMPILED_FROM = 2**16

_TORCH_MODES = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


def resize_uint8(img: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    """Resize an (H, W) or (H, W, C) uint8 image as Pillow does."""
    if img.ndim not in (2, 3):
        raise ValueError(f"Expected an (H, W) or (H, W, C) image, got shape {img.shape}.")
    large = img.size >= COMPILED_FROM and height * width > 0
    if method == Image.Resampling.BILINEAR and large and environment_implementation() == "auto":
        from detectron2.data.transforms._bilinear_cpu import resize_bilinear

        if rows_come_first(*img.shape[:2], height, width):
            resized = resize_bilinear(img if img.ndim == 3 else img[:, :, None], height, width)
            return resized if img.ndim == 3 else resized[:, :, 0]
    if img.ndim == 2 or img.shape[2] == 3:
        return np.array(Image.fromarray(img).resize((width, height), method))
    # One by one: as an RGBA or LA image, Pillow would weigh the colours by the last channel.
    channels = [
        np.asarray(Image.fromarray(img[:, :, c]).resize((width, height), method))
        for c in range(img.shape[2])
    ]
    return np.stack(channels, axis=2)


def resize_float(img: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    """Resize an (H, W) or (H, W, C) floating-point image without averaging.

    Raises:
        NotImplementedError: the dtype is not floating-point, or the filter is unknown here.
    """
    if img.dtype.kind != "f":
        raise NotImplementedError(
            f"An image of dtype {img.dtype} cannot be interpolated; convert it to uint8 or "
            "float32, or treat it as a segmentation (apply_segmentation)."
        )
    if method not in _TORCH_MODES:
        raise NotImplementedError(
            f"The filter {method.name} works on uint8 images only; use NEAREST, BILINEAR or "
            f"BICUBIC for {img.dtype}."
        )
    mode = _TORCH_MODES[method]
    planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(1, *img.shape[:2], -1)
    resized = torch.nn.functional.interpolate(
        planes.permute(0, 3, 1, 2),
        size=(height, width),
        mode=mode,
        align_corners=None if mode == "nearest" else False,
    )
    return resized[0].permute(1, 2, 0).reshape(height, width, *img.shape[2:]).numpy()


def resize_nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Label under the centre of every new pixel: Pillow's NEAREST for labels of any dtype."""
    rows = ((np.arange(height) + 0.5) * (labels.shape[0] / height)).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * (labels.shape[1] / width)).astype(np.intp)
    return labels[rows[:, None], columns[None, :]]


def warp_affine(
    img: np.ndarray, matrix: np.ndarray, height: int, width: int, method: Image.Resampling
) -> np.ndarray:
    """Move pixels by an affine map; what comes from outside of the image is 0.

    Args:
        img: (H, W) or (H, W, C).
        matrix: (2, 3), from pixel indices (x, y) of the input to those of the result.
        height: height of the result.
        width: width of the result.
        method: NEAREST for any dtype, BILINEAR for uint8 and floats.
    """
    to_source = _invert(matrix)
    if method == Image.Resampling.NEAREST:
        return _gather_nearest(img, to_source, height, width)
    if img.dtype != np.uint8 and img.dtype.kind != "f":
        raise NotImplementedError(
            f"An image of dtype {img.dtype} cannot be interpolated; convert it to uint8 or "
            "float32, or treat it as a segmentation (apply_segmentation)."
        )
    from detectron2.data.transforms._warp_cpu import warp_bilinear

    channels = img.shape[2:]
    plane_type = np.uint8 if img.dtype == np.uint8 else np.float32
    planes = img.reshape(*img.shape[:2], -1).astype(plane_type, copy=False)
    warped = np.empty((height, width, planes.shape[2]), dtype=plane_type)
    warp_bilinear(planes, warped, to_source, 0.5 if plane_type is np.uint8 else 0.0)
    return warped.reshape(height, width, *channels).astype(img.dtype, copy=False)


def _invert(matrix: np.ndarray) -> np.ndarray:
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -(linear @ matrix[:, 2:])])


def _gather_nearest(img: np.ndarray, to_source: np.ndarray, height: int, width: int) -> np.ndarray:
    x, y = np.arange(width), np.arange(height)[:, None]
    columns = np.floor(to_source[0, 0] * x + to_source[0, 1] * y + to_source[0, 2] + 0.5)
    rows = np.floor(to_source[1, 0] * x + to_source[1, 1] * y + to_source[1, 2] + 0.5)
    inside = (columns >= 0) & (columns < img.shape[1]) & (rows >= 0) & (rows < img.shape[0])
    result = np.zeros((height, width, *img.shape[2:]), dtype=img.dtype)
    result[inside] = img[rows[inside].astype(np.intp), columns[inside].astype(np.intp)]
    return result
