"""Rotated boxes, and how pairs of them overlap."""

import math
from typing import TypeVar

import torch
from torch import Tensor

from detectron2.layers.rotated_boxes import pairwise_iou_rotated
from detectron2.structures.boxes import Boxes

__all__ = ["Boxes", "RotatedBoxes", "pairwise_iou", "pairwise_iou_rotated"]

AnyRotatedBoxes = TypeVar("AnyRotatedBoxes", bound="RotatedBoxes")


class RotatedBoxes(Boxes):
    """N rotated boxes of one image.

    A row is (x centre, y centre, width, height, angle). At angle 0 the width lies along the x
    axis; the angle turns the box around its centre, in degrees, counter-clockwise as one sees
    it in an image whose y axis points down. The corner that is the top right one at angle 0,
    for one, is at ::

        x = x_centre + (cos(angle) * width - sin(angle) * height) / 2
        y = y_centre - (sin(angle) * width + cos(angle) * height) / 2

    Different rows may cover the same area: angle and angle + 180, or angle + 90 with width and
    height swapped. They are different boxes all the same, for the "up" direction of what is in
    them.

    Args:
        tensor: (N, 5); anything `torch.as_tensor` takes. Without elements it may have any shape.

    Attributes:
        tensor: (N, 5), float32.

    Raises:
        AssertionError: the shape is not (N, 5).
    """

    box_dim = 5

    def to(
        self: AnyRotatedBoxes, device: torch.device | str, non_blocking: bool = False
    ) -> AnyRotatedBoxes:
        """The boxes on `device`; `non_blocking` as in `torch.Tensor.to`."""
        return type(self)(self.tensor.to(device=device, non_blocking=non_blocking))

    def area(self) -> Tensor:
        """(N,) areas in square pixels."""
        return self.tensor[:, 2] * self.tensor[:, 3]

    def normalize_angles(self) -> None:
        """Bring every angle into [-180, 180), in this object."""
        centers_and_sizes, angles = self.tensor[:, :4], self.tensor[:, 4:]
        self.tensor = torch.cat((centers_and_sizes, (angles + 180) % 360 - 180), dim=1)

    def clip(self, box_size: tuple[int, int], clip_angle_threshold: float = 1.0) -> None:
        """Cut boxes that lie nearly upright at the border of an image, in this object.

        The part of a turned box that lies in the image is no box, so others stay as they are;
        sides never grow. Angles are normalised.

        Args:
            box_size: (height, width) of the image.
            clip_angle_threshold: boxes of at most this angle, in degrees, are cut.
        """
        image_height, image_width = box_size
        self.normalize_angles()
        x, y, width, height, angle = self.tensor.unbind(1)
        x0 = (x - width / 2).clamp(min=0).clamp(max=image_width)
        y0 = (y - height / 2).clamp(min=0).clamp(max=image_height)
        x1 = (x + width / 2).clamp(min=0).clamp(max=image_width)
        y1 = (y + height / 2).clamp(min=0).clamp(max=image_height)
        # Rounding could make a box that lies inside grow: hence the minimum.
        cut_width, cut_height = torch.minimum(width, x1 - x0), torch.minimum(height, y1 - y0)
        cut = torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, cut_width, cut_height, angle), dim=1)
        upright = angle.abs() <= clip_angle_threshold
        self.tensor = torch.where(upright[:, None], cut, self.tensor)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(N,) True where width and height both exceed `threshold` pixels."""
        return (self.tensor[:, 2:4] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """(N,) True where all corners of a box lie in an image.

        Args:
            box_size: (height, width) of the image.
            boundary_threshold: pixels by which corners may stick out on each side.
        """
        x, y, width, height, angle = self.tensor.unbind(1)
        theta = angle * (math.pi / 180)
        cos, sin = theta.cos().abs(), theta.sin().abs()
        reach_x = (cos * width + sin * height) / 2  # of the upright box around it
        reach_y = (sin * width + cos * height) / 2
        around = torch.stack((x - reach_x, y - reach_y, x + reach_x, y + reach_y), dim=1)
        return Boxes(around).inside_box(box_size, boundary_threshold)

    def get_centers(self) -> Tensor:
        """(N, 2) centres (x, y)."""
        return self.tensor[:, :2]

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Follow an image that is resized by `scale_x` and `scale_y`, in this object.

        Unequal factors turn a rotated rectangle into a parallelogram. The result is the
        rectangle with the lengths of its sides, turned so that its height points where the
        height of the parallelogram does.
        """
        x, y, width, height, angle = self.tensor.unbind(1)
        theta = angle * (math.pi / 180)
        cos, sin = theta.cos(), theta.sin()
        # The width points along (cos, -sin), the height along (sin, cos).
        new_width = width * torch.hypot(scale_x * cos, scale_y * sin)
        new_height = height * torch.hypot(scale_x * sin, scale_y * cos)
        new_angle = torch.atan2(scale_x * sin, scale_y * cos) * (180 / math.pi)
        self.tensor = torch.stack((x * scale_x, y * scale_y, new_width, new_height, new_angle), 1)


def pairwise_iou(boxes1: RotatedBoxes, boxes2: RotatedBoxes) -> Tensor:
    """(N, M) intersection over union of each of N rotated boxes with each of M."""
    return pairwise_iou_rotated(boxes1.tensor, boxes2.tensor)
