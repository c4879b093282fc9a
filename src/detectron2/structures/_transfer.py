"""Copies of batches and annotations on a device, without waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detectron2.layers.wrappers import copy_to_device
from detectron2.structures._cropped_masks import CroppedBitMasks
from detectron2.structures._repeated_masks import RepeatedBitMasks
from detectron2.structures.boxes import Boxes
from detectron2.structures.instances import Instances
from detectron2.structures.keypoints import Keypoints
from detectron2.structures.masks import BitMasks, PolygonMasks
from detectron2.structures.rotated_boxes import RotatedBoxes
from detectron2.utils._deferred import is_remote_device

__all__ = ["on_device"]

# By their methods: what a subclass elsewhere defines may take a device alone.
_HOLD_ONE_TENSOR = {kind.to for kind in (Boxes, RotatedBoxes, BitMasks, Keypoints)}
_TAKE_NON_BLOCKING = _HOLD_ONE_TENSOR | {
    kind.to for kind in (CroppedBitMasks, PolygonMasks, RepeatedBitMasks)
}


def on_device(value: Any, device: torch.device | str, copies: list[Tensor] | None = None) -> Any:
    """A batch, or a part of one, with its tensors on `device`.

    The host does not wait for a copy to a GPU: the GPU's later work does. (A copy back to the host
    is waited for, of course.)

    Args:
        value: tensors, Instances, their fields, and lists, tuples and dictionaries of them. What
            is none of these and has a ``to`` is moved by it; anything else stays as it is.
        copies: for a copy on a stream of its own: the tensors made are appended, and what has a
            ``to`` of its own, where nobody knows the tensors, stays.
    """
    device = torch.device(device)
    if isinstance(value, Tensor):
        return _tensor_on_device(value, device, copies)
    if isinstance(value, Instances):
        fields = {name: on_device(x, device, copies) for name, x in value.get_fields().items()}
        return value._with_fields(fields)
    if type(value) is dict:
        return {key: on_device(x, device, copies) for key, x in value.items()}
    if type(value) in (list, tuple):
        return type(value)(on_device(x, device, copies) for x in value)
    move = getattr(type(value), "to", None)
    if move in _HOLD_ONE_TENSOR:
        return type(value)(_tensor_on_device(value.tensor, device, copies))
    if move is CroppedBitMasks.to and value._is_small:
        pixels = _tensor_on_device(value._pixels, device, copies)
        return type(value)(pixels, value._windows, value.image_size)
    if move in _TAKE_NON_BLOCKING and copies is None:
        return value.to(device, non_blocking=is_remote_device(device))
    return value.to(device) if move and copies is None else value


def _tensor_on_device(tensor: Tensor, device: torch.device, copies: list[Tensor] | None) -> Tensor:
    if tensor.device.type != "cpu" or not is_remote_device(device):
        return tensor.to(device)
    copy = copy_to_device(tensor, device)
    if copies is not None:
        copies.append(copy)
    return copy
