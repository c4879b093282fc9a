"""Encodings of a box relative to another box, and the loss on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from fvcore.nn import smooth_l1_loss
from torch import Tensor

from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.layers.losses import giou_loss
from detectron2.modeling._forms import in_two_forms
from detectron2.structures import Boxes, RotatedBoxes

__all__ = ["Box2BoxTransform", "Box2BoxTransformLinear", "Box2BoxTransformRotated"]

# A predicted side is at most 1000 / 16 = 62.5 times the source's: without a bound a single wild
# logit overflows exp(). An image of 1000 pixels seen from an anchor of 16 still fits.
_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)


class Box2BoxTransform:
    """Four deltas (dx, dy, dw, dh) from a source box to a target box.

    The centre moves by dx times the width and dy times the height, the sides grow by exp(dw) and
    exp(dh) (R-CNN, appendix C).

    Args:
        weights: factors of (dx, dy, dw, dh). They bring the deltas to unit variance: Fast R-CNN
            heads use (10, 10, 5, 5).
        scale_clamp: upper bound of dw and dh when decoding.
    """

    def __init__(self, weights: Sequence[float], scale_clamp: float = _DEFAULT_SCALE_CLAMP) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Deltas that turn each source into its target.

        Args:
            src_boxes: (N, 4) xyxy, such as proposals.
            target_boxes: (N, 4) xyxy, such as ground truth.

        Returns:
            (N, 4).

        Raises:
            AssertionError: a source box on the CPU has no width or height.
        """
        source_x, source_y, source_w, source_h = _center_and_size(src_boxes)
        target_x, target_y, target_w, target_h = _center_and_size(target_boxes)
        _require_positive_sides(src_boxes, source_w, source_h)
        weight_x, weight_y, weight_w, weight_h = self.weights
        return torch.stack(
            (
                weight_x * (target_x - source_x) / source_w,
                weight_y * (target_y - source_y) / source_h,
                weight_w * torch.log(target_w / source_w),
                weight_h * torch.log(target_h / source_h),
            ),
            dim=-1,
        )

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Decode deltas.

        Args:
            deltas: (N, k * 4), k encodings (such as one per class) of each box.
            boxes: (N, 4) xyxy.

        Returns:
            (N, k * 4) xyxy, at least float32: half precision cannot hold pixel coordinates.
        """
        dx, dy, dw, dh = _split_deltas(deltas, self.weights)
        x, y, w, h = _center_and_size(boxes.to(dx.dtype).unsqueeze(-2))
        center_x, center_y = dx * w + x, dy * h + y
        half_w = 0.5 * w * torch.exp(dw.clamp(max=self.scale_clamp))
        half_h = 0.5 * h * torch.exp(dh.clamp(max=self.scale_clamp))
        corners = (center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h)
        return torch.stack(corners, dim=-1).reshape(deltas.shape)


class Box2BoxTransformRotated:
    """Five deltas (dx, dy, dw, dh, da) between boxes (x centre, y centre, width, height, angle).

    The first four are those of `Box2BoxTransform`, along the image axes. Angles are degrees; the
    difference is taken the short way round and da is in radians.

    Args:
        weights: factors of (dx, dy, dw, dh, da).
        scale_clamp: upper bound of dw and dh when decoding.
    """

    def __init__(self, weights: Sequence[float], scale_clamp: float = _DEFAULT_SCALE_CLAMP) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """(N, 5) deltas from (N, 5) sources to (N, 5) targets.

        Raises:
            AssertionError: a source box on the CPU has no width or height.
        """
        source_x, source_y, source_w, source_h, source_angle = src_boxes.unbind(dim=-1)
        target_x, target_y, target_w, target_h, target_angle = target_boxes.unbind(dim=-1)
        _require_positive_sides(src_boxes, source_w, source_h)
        weight_x, weight_y, weight_w, weight_h, weight_angle = self.weights
        turn = _shortest_turn(target_angle - source_angle)
        return torch.stack(
            (
                weight_x * (target_x - source_x) / source_w,
                weight_y * (target_y - source_y) / source_h,
                weight_w * torch.log(target_w / source_w),
                weight_h * torch.log(target_h / source_h),
                weight_angle * torch.deg2rad(turn),
            ),
            dim=-1,
        )

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Decode (N, k * 5) deltas of (N, 5) boxes into (N, k * 5), angles in [-180, 180)."""
        dx, dy, dw, dh, da = _split_deltas(deltas, self.weights)
        x, y, w, h, angle = boxes.to(dx.dtype).unsqueeze(-2).unbind(dim=-1)
        decoded = (
            dx * w + x,
            dy * h + y,
            w * torch.exp(dw.clamp(max=self.scale_clamp)),
            h * torch.exp(dh.clamp(max=self.scale_clamp)),
            _shortest_turn(torch.rad2deg(da) + angle),
        )
        return torch.stack(decoded, dim=-1).reshape(deltas.shape)


class Box2BoxTransformLinear:
    """Distances (left, top, right, bottom) from a source's centre to a target's sides (FCOS).

    Args:
        normalize_by_size: divide by the source's width and height. FCOS uses one square anchor
            of the level's stride, so this is its division by the stride.
    """

    def __init__(self, normalize_by_size: bool = True) -> None:
        self.normalize_by_size = normalize_by_size

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """(N, 4) distances from (N, 4) xyxy sources to (N, 4) xyxy targets.

        A distance is negative where the source's centre lies outside the target.
        """
        x, y, w, h = _center_and_size(src_boxes)
        left, top, right, bottom = target_boxes.unbind(dim=-1)
        distances = torch.stack((x - left, y - top, right - x, bottom - y), dim=-1)
        if self.normalize_by_size:
            distances = distances / torch.stack((w, h, w, h), dim=-1)
        return distances

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Decode (N, k * 4) distances of (N, 4) xyxy boxes into (N, k * 4) xyxy.

        A distance is never negative in a prediction: negative input counts as zero.
        """
        left, top, right, bottom = _split_deltas(F.relu(deltas), (1.0, 1.0, 1.0, 1.0))
        x, y, w, h = _center_and_size(boxes.to(left.dtype).unsqueeze(-2))
        if self.normalize_by_size:
            left, top, right, bottom = left * w, top * h, right * w, bottom * h
        corners = (x - left, y - top, x + right, y + bottom)
        return torch.stack(corners, dim=-1).reshape(deltas.shape)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x, centre y, width and height of (..., 4) xyxy boxes."""
    left, top, right, bottom = boxes.unbind(dim=-1)
    width, height = right - left, bottom - top
    return left + 0.5 * width, top + 0.5 * height, width, height


def _split_deltas(deltas: Tensor, weights: Sequence[float]) -> tuple[Tensor, ...]:
    """Columns of (N, k * B) deltas without their weights: B tensors of shape (N, k)."""
    dtype = torch.promote_types(deltas.dtype, torch.float32)
    columns = deltas.to(dtype).unflatten(-1, (-1, len(weights))).unbind(dim=-1)
    return tuple(column / weight for column, weight in zip(columns, weights, strict=True))


def _shortest_turn(degrees: Tensor) -> Tensor:
    """The same direction in [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0


def _require_positive_sides(boxes: Tensor, width: Tensor, height: Tensor) -> None:
    # On an accelerator the answer would stall the stream once per image; there an empty source
    # shows as a loss that is not finite.
    if boxes.device.type != "cpu" or boxes.numel() == 0:
        return
    empty = (width <= 0) | (height <= 0)
    if empty.any():
        first = int(empty.nonzero()[0, 0])
        raise AssertionError(
            f"Source box {first} is {boxes[first].tolist()}: without width and height no deltas "
            "to it exist. Drop empty boxes (Boxes.nonempty) before encoding."
        )


def _dense_box_regression_loss(
    anchors: list[Boxes | RotatedBoxes],
    box2box_transform: Box2BoxTransform | Box2BoxTransformRotated | Box2BoxTransformLinear,
    pred_anchor_deltas: list[Tensor],
    gt_boxes: list[Tensor],
    fg_mask: Tensor,
    box_reg_loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> Tensor:
    """Sum of the box loss over the positive anchors of a batch.

    Args:
        anchors: per level, R_l anchors; R in all.
        box2box_transform: the encoding of `pred_anchor_deltas`.
        pred_anchor_deltas: per level, (N, R_l, B).
        gt_boxes: per image, the (R, B) box that each anchor is matched to.
        fg_mask: (N, R) True where the anchor is positive.
        box_reg_loss_type: "smooth_l1" compares deltas; "giou", "diou" and "ciou" compare boxes.
        smooth_l1_beta: where smooth L1 changes from quadratic to linear; 0 is L1.

    Returns:
        scalar; zero, with a gradient, where nothing is positive.

    Raises:
        ValueError: the loss type is unknown.
    """
    if box_reg_loss_type != "smooth_l1" and box_reg_loss_type not in _BOX_LOSSES:
        raise ValueError(
            f"Box regression loss {box_reg_loss_type!r} is unknown; "
            f"use 'smooth_l1', {', '.join(map(repr, _BOX_LOSSES))}."
        )
    deltas, sources, targets, unused = _positive_rows(
        cat(pred_anchor_deltas, dim=1),
        type(anchors[0]).cat(anchors).tensor,
        torch.stack(gt_boxes),
        fg_mask,
    )
    if box_reg_loss_type == "smooth_l1":
        target_deltas = box2box_transform.get_deltas(sources, targets)
        losses = smooth_l1_loss(deltas, target_deltas, beta=smooth_l1_beta).sum(dim=1)
    else:
        predictions = box2box_transform.apply_deltas(deltas, sources)
        losses = _BOX_LOSSES[box_reg_loss_type](predictions, targets)
    return losses.sum() if unused is None else losses.masked_fill(unused, 0).sum()


def _masked_rows(
    deltas: Tensor, sources: Tensor, targets: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All rows, with harmless numbers in those that do not count: arithmetic on a GPU costs less
    than waiting for the number of positives."""
    sources = sources.expand_as(targets)
    targets = torch.where(mask[..., None], targets, sources)
    deltas = deltas.masked_fill(~mask[..., None], 0)
    return deltas.flatten(0, 1), sources.flatten(0, 1), targets.flatten(0, 1), ~mask.flatten()


@in_two_forms(fixed=_masked_rows)
def _positive_rows(
    deltas: Tensor, sources: Tensor, targets: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What enters the arithmetic: (P, B) predictions, sources and targets; and (P,) True where
    the loss does not count, None if all do.

    They are a few hundred rows of several hundred thousand.

    Args:
        deltas, targets: (N, R, B).
        sources: (R, B).
        mask: (N, R).
    """
    images, rows = mask.nonzero(as_tuple=True)
    return deltas[images, rows], sources[rows], targets[images, rows], None


_BOX_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}
