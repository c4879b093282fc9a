"""Axis-aligned boxes: a list of them, their encodings, and how pairs of them overlap."""

import math
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, unique
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from detectron2 import ops

__all__ = [
    "BoxMode",
    "Boxes",
    "matched_pairwise_iou",
    "pairwise_intersection",
    "pairwise_ioa",
    "pairwise_iou",
    "pairwise_point_box_distance",
]

RawBoxes = TypeVar("RawBoxes", list[float], tuple[float, ...], np.ndarray, Tensor)
AnyBoxes = TypeVar("AnyBoxes", bound="Boxes")
# A coordinate of one box is a float, that of many is a tensor; the formulas take both.
Coordinate = Any


@unique
class BoxMode(IntEnum):
    """How the numbers of a box are to be read. Members are integers, so they fit into JSON.

    ``ABS`` modes count pixels. ``REL`` modes are fractions of the image size; they name what
    dataset files hold, and nothing converts them.
    """

    XYXY_ABS = 0
    """(x0, y0, x1, y1)."""
    XYWH_ABS = 1
    """(x0, y0, width, height)."""
    XYXY_REL = 2
    """(x0, y0, x1, y1) in [0, 1]."""
    XYWH_REL = 3
    """(x0, y0, width, height) in [0, 1]."""
    XYWHA_ABS = 4
    """(x centre, y centre, width, height, angle in degrees, counter-clockwise)."""

    @staticmethod
    def convert(box: RawBoxes, from_mode: "BoxMode", to_mode: "BoxMode") -> RawBoxes:
        """Rewrite boxes in another mode.

        A rotated box turns into the smallest upright box around it, which cannot be undone. An
        upright XYWH box turns into a rotated one of angle 0.

        Args:
            box: one box as a list or tuple of 4 or 5 numbers, or an array or tensor whose last
                dimension is 4 or 5.
            from_mode: how `box` is written.
            to_mode: how the result is written.

        Returns:
            The type of `box`; arrays and tensors keep their dtype. `box` itself if the modes
            are equal.

        Raises:
            AssertionError: a mode is relative, or a box has a wrong number of coordinates.
            NotImplementedError: no rule leads from one mode to the other.
        """
        if from_mode == to_mode:
            return box
        rule = _conversion_rule(BoxMode(from_mode), BoxMode(to_mode))
        if isinstance(box, (list, tuple)):
            _check_coordinate_count(len(box), from_mode)
            return cast(RawBoxes, type(box)(rule(*box)))
        _check_coordinate_count(box.shape[-1], from_mode)
        if isinstance(box, np.ndarray):
            return _convert_tensor(torch.from_numpy(np.ascontiguousarray(box)), rule).numpy()
        return _convert_tensor(box, rule)


def _convert_tensor(boxes: Tensor, rule: Callable[..., tuple[Coordinate, ...]]) -> Tensor:
    # float64 in between: thousands of pixels in half precision would not survive a sum.
    return torch.stack(rule(*boxes.double().unbind(-1)), dim=-1).to(boxes.dtype)


def _check_coordinate_count(count: int, mode: BoxMode) -> None:
    expected = 5 if mode == BoxMode.XYWHA_ABS else 4
    if count != expected:
        raise AssertionError(
            f"A {BoxMode(mode).name} box has {expected} coordinates, this one has {count}."
        )


def _conversion_rule(from_mode: BoxMode, to_mode: BoxMode) -> Callable[..., tuple[Coordinate, ...]]:
    for mode in (from_mode, to_mode):
        if mode in (BoxMode.XYXY_REL, BoxMode.XYWH_REL):
            raise AssertionError(
                f"{mode.name} cannot be converted: multiply by the image size and use "
                f"{mode.name.replace('REL', 'ABS')}."
            )
    try:
        return _CONVERSIONS[from_mode, to_mode]
    except KeyError:
        raise NotImplementedError(
            f"There is no conversion of boxes from {from_mode.name} to {to_mode.name}."
        ) from None


def _xyxy_to_xywh(
    x0: Coordinate, y0: Coordinate, x1: Coordinate, y1: Coordinate
) -> tuple[Coordinate, ...]:
    return x0, y0, x1 - x0, y1 - y0


def _xywh_to_xyxy(
    x0: Coordinate, y0: Coordinate, width: Coordinate, height: Coordinate
) -> tuple[Coordinate, ...]:
    return x0, y0, x0 + width, y0 + height


def _xywh_to_xywha(
    x0: Coordinate, y0: Coordinate, width: Coordinate, height: Coordinate
) -> tuple[Coordinate, ...]:
    return x0 + width / 2, y0 + height / 2, width, height, 0.0 * width


def _xywha_to_xyxy(
    x: Coordinate, y: Coordinate, width: Coordinate, height: Coordinate, angle: Coordinate
) -> tuple[Coordinate, ...]:
    theta = angle * (math.pi / 180)
    maths: Any = torch if isinstance(theta, Tensor) else math
    cos, sin = abs(maths.cos(theta)), abs(maths.sin(theta))
    half_width = (cos * width + sin * height) / 2
    half_height = (sin * width + cos * height) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


_CONVERSIONS: dict[tuple[BoxMode, BoxMode], Callable[..., tuple[Coordinate, ...]]] = {
    (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): _xyxy_to_xywh,
    (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): _xywh_to_xyxy,
    (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS): _xywh_to_xywha,
    (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS): _xywha_to_xyxy,
}


class Boxes:
    """N upright boxes of one image.

    Args:
        tensor: (N, 4) rows of (x0, y0, x1, y1) in pixels; anything `torch.as_tensor` takes.
            Without elements it may have any shape.

    Attributes:
        tensor: (N, 4), float32.

    Raises:
        AssertionError: the shape is not (N, 4).
    """

    box_dim = 4  # numbers per box

    def __init__(self, tensor: Tensor | np.ndarray | Sequence[Any]) -> None:
        tensor = torch.as_tensor(tensor).to(torch.float32)
        # Nothing asks for the number of rows of what has the right shape: graphs may not know it.
        fits = tensor.dim() == 2 and tensor.shape[1] == self.box_dim
        if not fits and tensor.numel() == 0:
            tensor = tensor.reshape(-1, self.box_dim)
        elif not fits:
            raise AssertionError(
                f"{type(self).__name__} takes a tensor of shape (N, {self.box_dim}), "
                f"not {tuple(tensor.shape)}."
            )
        self.tensor = tensor

    def clone(self: AnyBoxes) -> AnyBoxes:
        """A copy with its own memory."""
        return type(self)(self.tensor.clone())

    def to(self: AnyBoxes, device: torch.device | str, non_blocking: bool = False) -> AnyBoxes:
        """The boxes on `device`; `non_blocking` as in `torch.Tensor.to`."""
        return type(self)(self.tensor.to(device=device, non_blocking=non_blocking))

    def area(self) -> Tensor:
        """(N,) areas in square pixels."""
        x0, y0, x1, y1 = self.tensor.unbind(1)
        return (x1 - x0) * (y1 - y0)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Move corners that lie outside of an image onto its border, in this object.

        Args:
            box_size: (height, width) of the image.

        Raises:
            AssertionError: a coordinate is infinite or NaN.
        """
        # An assert statement, because torch.compile turns one into a check on the device; an
        # `if` with a `raise` would split the graph here.
        assert torch.isfinite(self.tensor).all(), (
            "Boxes to clip have infinite or NaN coordinates; whatever computed them diverged."
        )
        self.tensor = clip_corners(self.tensor, box_size)

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply horizontal and vertical coordinates, in this object."""
        x = self.tensor[:, 0::2] * scale_x
        y = self.tensor[:, 1::2] * scale_y
        self.tensor = torch.stack((x, y), dim=2).flatten(1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(N,) True where width and height both exceed `threshold` pixels."""
        sizes = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sizes > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """(N,) True where a box lies in an image.

        Args:
            box_size: (height, width) of the image.
            boundary_threshold: pixels by which a box may stick out on each side.
        """
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(1)
        return (
            (x0 >= -boundary_threshold)
            & (y0 >= -boundary_threshold)
            & (x1 < width + boundary_threshold)
            & (y1 < height + boundary_threshold)
        )

    def get_centers(self) -> Tensor:
        """(N, 2) centres (x, y)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def __getitem__(self: AnyBoxes, item: int | slice | Tensor) -> AnyBoxes:
        """Some of the boxes, by anything that indexes the first dimension of a tensor.

        A single index gives one box, not four numbers: the result always has N rows.

        Raises:
            IndexError: `item` does not index the N boxes.
        """
        if isinstance(item, (int, np.integer)):
            return type(self)(self.tensor[item].unsqueeze(0))
        selected = self.tensor[item]
        if selected.dim() != 2:
            raise IndexError(f"Boxes cannot be indexed with {item!r}: it does not select rows.")
        return type(self)(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        """One (4,) row after the other."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tensor})"

    @classmethod
    def cat(cls: type[AnyBoxes], boxes_list: Sequence["Boxes"]) -> AnyBoxes:
        """All boxes of a list of box lists, in order; no boxes for an empty list."""
        if len(boxes_list) == 0:
            return cls(torch.empty(0, cls.box_dim))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))

    @property
    def device(self) -> torch.device:
        return self.tensor.device


def clip_corners(corners: Tensor, box_size: tuple[int, int]) -> Tensor:
    """(N, 4) xyxy corners on or inside of the border of a (height, width) image, unchecked."""
    height, width = box_size
    x = corners[:, 0::2].clamp(min=0, max=width)
    y = corners[:, 1::2].clamp(min=0, max=height)
    return torch.stack((x, y), dim=2).flatten(1)


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N, M) areas shared by each of N boxes with each of M boxes."""
    top_left = torch.maximum(boxes1.tensor[:, None, :2], boxes2.tensor[None, :, :2])
    bottom_right = torch.minimum(boxes1.tensor[:, None, 2:], boxes2.tensor[None, :, 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(2)
    return width * height


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N, M) intersection over union of each of N boxes with each of M boxes.

    0 where the boxes do not overlap, also when both are empty.
    """
    return ops.box_iou(boxes1.tensor, boxes2.tensor)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N, M) intersection of each of N boxes with each of M, over the area of the latter."""
    return _ratio(pairwise_intersection(boxes1, boxes2), boxes2.area()[None, :])


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N,) intersection over union of box i of the one with box i of the other.

    Raises:
        AssertionError: the two differ in length.
    """
    if len(boxes1) != len(boxes2):
        raise AssertionError(f"{len(boxes1)} boxes cannot be matched with {len(boxes2)} boxes.")
    top_left = torch.maximum(boxes1.tensor[:, :2], boxes2.tensor[:, :2])
    bottom_right = torch.minimum(boxes1.tensor[:, 2:], boxes2.tensor[:, 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(1)
    intersection = width * height
    return _ratio(intersection, boxes1.area() + boxes2.area() - intersection)


def pairwise_point_box_distance(points: Tensor, boxes: Boxes) -> Tensor:
    """How far the sides of N boxes are from P points, inward positive.

    Args:
        points: (P, 2) of (x, y), in the frame of `boxes`.
        boxes: N boxes.

    Returns:
        (P, N, 4) distances to the left, top, right and bottom side. All four are positive for
        a point inside of a box.
    """
    top_left = points[:, None] - boxes.tensor[None, :, :2]
    bottom_right = boxes.tensor[None, :, 2:] - points[:, None]
    return torch.cat((top_left, bottom_right), dim=2)


def _ratio(intersection: Tensor, whole: Tensor) -> Tensor:
    """Their quotient; 0 where nothing intersects, whatever the sign of the whole."""
    return torch.where(intersection > 0, intersection / whole, intersection.new_zeros(()))
