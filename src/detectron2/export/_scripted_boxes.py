"""Boxes as TorchScript can read them: the methods of `Boxes` and `RotatedBoxes` that heads use."""

from typing import List, Tuple  # noqa: UP035

import torch
from torch import Tensor

from detectron2.structures import Boxes, RotatedBoxes

__all__ = ["script_boxes"]

# TorchScript reads annotations from this source: no `from __future__ import annotations`, and
# the old names of generic types.


class ScriptedBoxes:
    """See `Boxes`."""

    def __init__(self, tensor: Tensor):
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape((-1, 4))
        assert tensor.dim() == 2 and tensor.size(1) == 4, "Boxes takes a tensor of shape (N, 4)."
        self.tensor = tensor

    def clone(self) -> "ScriptedBoxes":
        return ScriptedBoxes(self.tensor.clone())

    def to(self, device: torch.device) -> "ScriptedBoxes":
        return ScriptedBoxes(self.tensor.to(device))

    def area(self) -> Tensor:
        box = self.tensor
        return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])

    def clip(self, box_size: Tuple[int, int]) -> None:  # noqa: UP006
        height, width = box_size
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack((x, y), dim=2).flatten(1)

    def scale(self, scale_x: float, scale_y: float) -> None:
        x = self.tensor[:, 0::2] * scale_x
        y = self.tensor[:, 1::2] * scale_y
        self.tensor = torch.stack((x, y), dim=2).flatten(1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        sizes = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sizes > threshold).all(dim=1)

    def inside_box(self, box_size: Tuple[int, int], boundary_threshold: int = 0) -> Tensor:  # noqa: UP006
        height, width = box_size
        box = self.tensor
        return (
            (box[:, 0] >= -boundary_threshold)
            & (box[:, 1] >= -boundary_threshold)
            & (box[:, 2] < width + boundary_threshold)
            & (box[:, 3] < height + boundary_threshold)
        )

    def get_centers(self) -> Tensor:
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def __getitem__(self, item: Tensor) -> "ScriptedBoxes":
        return ScriptedBoxes(self.tensor[item])

    def __len__(self) -> int:
        return self.tensor.shape[0]

    @staticmethod
    def cat(boxes_list: List["ScriptedBoxes"]) -> "ScriptedBoxes":  # noqa: UP006
        tensors: List[Tensor] = [torch.empty([0, 4])]  # noqa: UP006
        if len(boxes_list) > 0:
            tensors = [boxes.tensor for boxes in boxes_list]
        return ScriptedBoxes(torch.cat(tensors))

    @property
    def device(self) -> torch.device:
        return self.tensor.device


class ScriptedRotatedBoxes:
    """See `RotatedBoxes`."""

    def __init__(self, tensor: Tensor):
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape((-1, 5))
        assert tensor.dim() == 2 and tensor.size(1) == 5, "RotatedBoxes takes shape (N, 5)."
        self.tensor = tensor

    def clone(self) -> "ScriptedRotatedBoxes":
        return ScriptedRotatedBoxes(self.tensor.clone())

    def to(self, device: torch.device) -> "ScriptedRotatedBoxes":
        return ScriptedRotatedBoxes(self.tensor.to(device))

    def area(self) -> Tensor:
        return self.tensor[:, 2] * self.tensor[:, 3]

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        return (self.tensor[:, 2:4] > threshold).all(dim=1)

    def get_centers(self) -> Tensor:
        return self.tensor[:, :2]

    def __getitem__(self, item: Tensor) -> "ScriptedRotatedBoxes":
        return ScriptedRotatedBoxes(self.tensor[item])

    def __len__(self) -> int:
        return self.tensor.shape[0]

    @staticmethod
    def cat(boxes_list: List["ScriptedRotatedBoxes"]) -> "ScriptedRotatedBoxes":  # noqa: UP006
        tensors: List[Tensor] = [torch.empty([0, 5])]  # noqa: UP006
        if len(boxes_list) > 0:
            tensors = [boxes.tensor for boxes in boxes_list]
        return ScriptedRotatedBoxes(torch.cat(tensors))

    @property
    def device(self) -> torch.device:
        return self.tensor.device


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
            torch.jit.script(readable)
            script_class = state._get_script_class(readable)
        state._add_script_class(real, script_class)
