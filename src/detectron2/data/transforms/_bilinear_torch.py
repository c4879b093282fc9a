"""Pillow's bilinear resizing of uint8 images on any device, with the same bits.

An image as it comes from the camera is a twelfth of the float32 tensor that a model wants, if it
is enlarged; it is uploaded as it is and resized there. Integer arithmetic rounds alike on every
device.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from detectron2.data.transforms._bilinear_weights import FRACTION_BITS, HALF, bilinear_weights

__all__ = ["resize_planes", "upload"]


def upload(image: np.ndarray, device: torch.device) -> Tensor:
    """The array on a device; the host does not wait for a GPU to have it."""
    return _on_host(image, device.type).to(device, non_blocking=True)


def _on_host(array: np.ndarray, device_type: str) -> Tensor:
    # PyTorch warns of arrays that cannot be written to, as Pillow's are.
    host = torch.from_numpy(np.require(array, requirements=("C", "W")))
    return host.pin_memory() if device_type == "cuda" else host


def resize_planes(planes: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 images as Pillow does, where `rows_come_first`.

    Args:
        planes: (C, H, W) uint8.
        height: of the result.
        width: of the result.

    Returns:
        (C, height, width) uint8.
    """
    return _resize_axis(_resize_axis(planes, 2, width), 1, height)


def _resize_axis(planes: Tensor, axis: int, length: int) -> Tensor:
    """Weighted sums along an axis of (C, H, W), rounded to uint8."""
    if planes.shape[axis] == length:
        return planes
    shape = (length, 1) if axis == 1 else (length,)
    # Copied for every image: a copy that is kept would be used by other streams than the one that
    # it was made on, for which it is not there yet.
    table = _table(planes.shape[axis], length, planes.device.type)
    columns, weights = (part.to(planes.device, non_blocking=True) for part in table)
    # At most 255 times a little over 2^22, which an int32 holds.
    total: Tensor | int = HALF
    for column, weight in zip(columns, weights, strict=True):
        pixels = planes.index_select(axis, column).to(torch.int32)
        total = pixels.mul_(weight.view(shape)).add_(total)
    assert isinstance(total, Tensor)
    return total.bitwise_right_shift_(FRACTION_BITS).to(torch.uint8)


@functools.lru_cache(maxsize=64)
def _table(length: int, new_length: int, device_type: str) -> tuple[Tensor, Tensor]:
    """(taps, new_length) int64 old pixels and int32 weights that make a new one, on the host, from
    where a device of that type reads them while the host goes on."""
    first, weights = bilinear_weights(length, new_length)
    pixels = first.astype(np.int64) + np.arange(len(weights))[:, None]
    # Behind the last pixel the weight is 0.
    return _on_host(np.minimum(pixels, length - 1), device_type), _on_host(weights, device_type)
