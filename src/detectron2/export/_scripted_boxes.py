"""Boxes as TorchScript can read them: the methods of `Boxes` and `RotatedBoxes` that heads use.

The arithmetic is that of the classes themselves. TorchScript compiles no inheritance and no
`type(self)`, so what makes new boxes is written here, with the name of each class.
"""

import torch
from torch import Tensor

from detectron2.structures import Boxes, RotatedBoxes

__all__ = ["script_boxes"]

# TorchScript reads annotations from this source: no `from __future__ import annotations`.


class ScriptedBoxes:
    """See `Boxes`."""

    def __init__(self, tensor: Tensor):
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape((-1, 4))
        assert tensor.dim() == 2 and tensor.size(1) == 4, "Boxes takes a tensor of shape (N, 4)."
        self.tensor = tensor

    area = Boxes.area
    clip = Boxes.clip
    scale = Boxes.scale
    nonempty = Boxes.nonempty
    inside_box = Boxes.inside_box
    get_centers = Boxes.get_centers
    __len__ = Boxes.__len__
    device = Boxes.device

    def clone(self) -> "ScriptedBoxes":
        return ScriptedBoxes(self.tensor.clone())

    def to(self, device: torch.device) -> "ScriptedBoxes":
        return ScriptedBoxes(self.tensor.to(device))

    def __getitem__(self, item: Tensor) -> "ScriptedBoxes":
        return ScriptedBoxes(self.tensor[item])


class ScriptedRotatedBoxes:
    """See `RotatedBoxes`."""

    def __init__(self, tensor: Tensor):
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape((-1, 5))
        assert tensor.dim() == 2 and tensor.size(1) == 5, "RotatedBoxes takes shape (N, 5)."
        self.tensor = tensor

    area = RotatedBoxes.area
    normalize_angles = RotatedBoxes.normalize_angles
    clip = RotatedBoxes.clip
    scale = RotatedBoxes.scale
    nonempty = RotatedBoxes.nonempty
    get_centers = RotatedBoxes.get_centers
    __len__ = RotatedBoxes.__len__
    device = RotatedBoxes.device

    def clone(self) -> "ScriptedRotatedBoxes":
        return ScriptedRotatedBoxes(self.tensor.clone())

    def to(self, device: torch.device) -> "ScriptedRotatedBoxes":
        return ScriptedRotatedBoxes(self.tensor.to(device))

    def __getitem__(self, item: Tensor) -> "ScriptedRotatedBoxes":
        return ScriptedRotatedBoxes(self.tensor[item])


_READABLE = {Boxes: ScriptedBoxes, RotatedBoxes: ScriptedRotatedBoxes}


def script_boxes() -> None:
    """Make the names `Boxes` and `RotatedBoxes` usable in scripted code.

    The compiler gets the classes of this file under the qualified names of the real ones, and
    objects that come out of a scripted function are real `Boxes`.
    """
    state = torch.jit._state
    for real, readable in _READABLE.items():
        script_class = state._get_script_class(real)
        if script_class is None:
            readable._jit_override_qualname = torch._jit_internal._qualified_name(real)
            # Methods refer to names of the files that they were written in.
            names = torch._jit_internal.createResolutionCallbackForClassMethods(readable)
            torch.jit.script(readable, _rcb=names)
            script_class = state._get_script_class(readable)
        state._add_script_class(real, script_class)
