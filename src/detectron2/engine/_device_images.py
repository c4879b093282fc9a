"""Images on their way to a model on a GPU."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectron2.data import transforms as T
from detectron2.data.transforms._bilinear_torch import resize_planes, upload
from detectron2.data.transforms._bilinear_weights import rows_come_first
from detectron2.data.transforms.augmentation_impl.resizing import BILINEAR

__all__ = ["resized_on_device", "shapes_of"]

# Where resizing on the device is faster than on the host.
DEVICE_TYPES = ("cuda",)


def resized_on_device(
    image: np.ndarray, augmentation: Any, device: torch.device | None, is_reversed: bool
) -> Tensor | None:
    """The (C, H', W') float32 input of a model on a GPU, resized there; None where it cannot be.

    The bits are those of `augmentation` on the host.

    Args:
        image: (H, W, C).
        augmentation: of the predictor.
        device: of the model.
        is_reversed: whether the model takes the channels in reverse order.
    """
    if device is None or device.type not in DEVICE_TYPES or image.dtype != np.uint8:
        return None
    if not _is_plain_resizing(augmentation) or augmentation.interp != BILINEAR:
        return None
    if len(set(augmentation.short_edge_length)) > 1 or image.size == 0:
        return None  # a length drawn here would not be the one drawn there
    transform = augmentation.get_transform(image)
    height, width = image.shape[:2]
    new_height, new_width = height, width
    if isinstance(transform, T.ResizeTransform):
        new_height, new_width = transform.new_h, transform.new_w
    if not rows_come_first(height, width, new_height, new_width):
        return None
    planes = upload(image, device).permute(2, 0, 1)
    if is_reversed:
        planes = planes.flip(0)
    return resize_planes(planes, new_height, new_width).to(torch.float32)


def shapes_of(augmentation: Any, multiple: int) -> list[tuple[int, int]]:
    """The padded (height, width) of the widest and of the highest image after resizing.

    Args:
        augmentation: of the predictor.
        multiple: sides are padded to multiples of it.

    Raises:
        ValueError: it does not say how large images may be.
    """
    short, longest = 0, sys.maxsize
    if _is_plain_resizing(augmentation):
        short, longest = max(augmentation.short_edge_length), augmentation.max_size
    if short <= 0 or longest >= sys.maxsize:
        raise ValueError(
            "CUDA graphs need images of known size: INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST "
            "above 0, or optimize_for_inference(model, cuda_graphs=[(height, width), ...])."
        )
    short_side, long_side = (side + -side % multiple for side in (short, longest))
    shapes = [(short_side, long_side), (long_side, short_side)]
    return shapes if short_side != long_side else shapes[:1]


def _is_plain_resizing(augmentation: Any) -> bool:
    # A subclass may do anything else.
    return type(augmentation) is T.ResizeShortestEdge
