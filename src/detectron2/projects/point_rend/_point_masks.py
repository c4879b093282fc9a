"""Masks that grow: a grid of points in each box, doubled and mended where it is uncertain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.layers import ShapeSpec, cat
from detectron2.projects.point_rend.point_features import (
    generate_regular_grid_point_coords,
    get_uncertain_point_coords_on_grid,
    point_sample_fine_grained_features,
)
from detectron2.structures import Boxes, Instances

__all__ = ["PointMaskHead", "calculate_uncertainty"]


def calculate_uncertainty(logits: Tensor, classes: Tensor) -> Tensor:
    """(R, 1, ...) the negative distance from 0 of the logits of each object's class.

    Args:
        logits: (R, C, ...), or (R, 1, ...) if the classes share a mask.
        classes: (R,) int64, of the ground truth or predicted.
    """
    if logits.shape[1] > 1:
        rows = torch.arange(logits.shape[0], device=logits.device)
        logits = logits[rows, classes][:, None]
    return -logits.abs()


class PointMaskHead(nn.Module):
    """What the two heads share: points of boxes, and masks that grow."""

    def __init__(
        self,
        *,
        feature_scales: Mapping[str, float],
        box_in_features: Sequence[str],
        box_side: int,
        point_in_features: Sequence[str],
        train_num_points: int,
        subdivision_steps: int,
        subdivision_num_points: int,
    ) -> None:
        """
        Args:
            feature_scales: cells per pixel of each feature map.
            box_in_features: names of the maps of which a grid of each box is read.
            box_side: points along a side of that grid.
            point_in_features: names of the maps that the point head sees.
            train_num_points: points of a box in training.
            subdivision_steps: how often the inference doubles the size.
            subdivision_num_points: points that are predicted each time.
        """
        super().__init__()
        self.feature_scales = dict(feature_scales)
        self.box_in_features = box_in_features
        self.box_side = box_side
        self.point_in_features = point_in_features
        self.train_num_points = train_num_points
        self.subdivision_steps = subdivision_steps
        self.subdivision_num_points = subdivision_num_points

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        points, num_classes = cfg.MODEL.POINT_HEAD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if num_classes != points.NUM_CLASSES:
            raise ValueError(
                f"MODEL.POINT_HEAD.NUM_CLASSES is {points.NUM_CLASSES} and "
                f"MODEL.ROI_HEADS.NUM_CLASSES {num_classes}: they must be the same."
            )
        return {
            "feature_scales": {name: 1.0 / shape.stride for name, shape in input_shape.items()},
            "box_in_features": cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES,
            "box_side": cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION,
            "point_in_features": points.IN_FEATURES,
            "train_num_points": points.TRAIN_NUM_POINTS,
            "subdivision_steps": points.SUBDIVISION_STEPS,
            "subdivision_num_points": points.SUBDIVISION_NUM_POINTS,
        }

    def _box_features(self, features: Mapping[str, Tensor], boxes: list[Boxes]) -> Tensor:
        """(R, C, side, side) values of the coarse head's maps on a grid of each box."""
        side = self.box_side
        corners = Boxes.cat(boxes).tensor
        grid = generate_regular_grid_point_coords(len(corners), side, corners.device)
        values, _ = self._at_points(features, self.box_in_features, boxes, grid)
        return values.unflatten(2, (side, side))

    def _fine_features(
        self, features: Mapping[str, Tensor], boxes: list[Boxes], coords: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(R, C, P) values of the point head's maps, and (R, P, 2) the points in pixels."""
        return self._at_points(features, self.point_in_features, boxes, coords)

    def _at_points(
        self,
        features: Mapping[str, Tensor],
        names: Sequence[str],
        boxes: list[Boxes],
        coords: Tensor,
    ) -> tuple[Tensor, Tensor]:
        maps = [features[name] for name in names]
        scales = [self.feature_scales[name] for name in names]
        return point_sample_fine_grained_features(maps, scales, boxes, coords)

    def _first_grid(self) -> tuple[int, int]:
        """Side of the first mask of the inference, and how often it is doubled."""
        raise NotImplementedError

    def _logits_at(
        self, features: Mapping[str, Tensor], boxes: list[Boxes], coords: Tensor, of_boxes: Tensor
    ) -> Tensor:
        """(R, C, P) logits at points; `of_boxes` is what the head made of each box."""
        raise NotImplementedError

    def _refined(
        self, features: Mapping[str, Tensor], instances: list[Instances], of_boxes: Tensor
    ) -> Tensor:
        """(R, C, h, w) logits: a grid of points, then doubled and mended where uncertain.

        PointRend (Kirillov et al., 2020), section 3.1 and figure 4.
        """
        boxes = [x.pred_boxes for x in instances]
        classes = cat([x.pred_classes for x in instances])
        side, doublings = self._first_grid()
        grid = generate_regular_grid_point_coords(len(classes), side, classes.device)
        logits = self._logits_at(features, boxes, grid, of_boxes)
        logits = logits.unflatten(2, (side, side))
        if len(classes) == 0:
            return logits
        for _ in range(doublings):
            logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
            indices, coords = get_uncertain_point_coords_on_grid(
                calculate_uncertainty(logits, classes), self.subdivision_num_points
            )
            mended = self._logits_at(features, boxes, coords, of_boxes)
            shape = logits.shape
            places = indices[:, None].expand(-1, shape[1], -1)
            logits = logits.flatten(start_dim=2).scatter(2, places, mended).view(shape)
        return logits
