"""Copies of batches and annotations on a device, without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detectron2.structures._cropped_masks import CroppedBitMasks
from detectron2.structures._repeated_masks import RepeatedBitMasks
from detectron2.structures.boxes import Boxes
from detectron2.structures.instances import Instances
from detectron2.structures.keypoints import Keypoints
from detectron2.structures.masks import BitMasks, PolygonMasks
from detectron2.structures.rotated_boxes import RotatedBoxes
from detectron2.utils._deferred import is_remote_device

__all__ = ["on_device"]

# What a subclass elsewhere defines may take a device alone.
_HOLD_ONE_TENSOR = {kind.to for kind in (Boxes, RotatedBoxes, BitMasks, Keypoints)}
_TAKE_NON_BLOCKING = _HOLD_ONE_TENSOR | {
    kind.to for kind in (CroppedBitMasks, PolygonMasks, RepeatedBitMasks)
}


def on_device(value: Any, device: torch.device | str, pin: bool = False) -> Any:
    """A batch, or a part of one, with its tensors on `device`.

    The host does not wait for a copy to a GPU: the GPU's later work does. (A copy back to the host
    is waited for, of course.)

    Args:
        value: tensors, Instances, their fields, and lists, tuples and dictionaries of them. What
            is none of these and has a ``to`` is moved by it; anything else stays as it is.
        pin: copy through page-locked memory, from which a GPU reads on its own.
    """
    device = torch.device(device)
    if isinstance(value, Tensor):
        return _tensor_on_device(value, device, pin)
    if isinstance(value, Instances):
        fields = {name: on_device(x, device, pin) for name, x in value.get_fields().items()}
        return value._with_fields(fields)
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: on_device(x, device, pin) for key, x in value.items()}
    if type(value) in (list, tuple):
        return type(value)(on_device(x, device, pin) for x in value)
    if getattr(type(value), "to", None) in _TAKE_NON_BLOCKING:
        return _pinned(value, pin).to(device, non_blocking=is_remote_device(device))
    return value.to(device) if hasattr(value, "to") else value


def _tensor_on_device(tensor: Tensor, device: torch.device, pin: bool) -> Tensor:
    if tensor.device.type != "cpu" or not is_remote_device(device):
        return tensor.to(device)
    # A page-locked copy lives until the GPU has read it: PyTorch's allocator sees to that.
    return (tensor.pin_memory() if pin else tensor).to(device, non_blocking=True)


def _pinned(value: Any, pin: bool) -> Any:
    if pin and type(value).to in _HOLD_ONE_TENSOR and value.tensor.is_cpu:
        return type(value)(value.tensor.pin_memory())
    return value
