"""Masks that grow: a grid of points in each box, doubled and mended where it is uncertain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
from detectron2.projects.point_rend.point_features import (
    generate_regular_grid_point_coords,
    get_uncertain_point_coords_on_grid,
    point_sample_fine_grained_features,
)
from detectron2.structures import Boxes, Instances

__all__ = ["PointMaskHead", "Sampler", "calculate_uncertainty", "of_classes"]

# From names of feature maps and (R, P, 2) points, as fractions of R boxes, to (R, C, P) values.
Sampler = Callable[[Sequence[str], Tensor], Tensor]


def calculate_uncertainty(logits: Tensor, classes: Tensor) -> Tensor:
    """(R, 1, ...) the negative distance from 0 of the logits of each object's class.

    Args:
        logits: (R, C, ...), or (R, 1, ...) if the classes share a mask.
        classes: (R,) int64, of the ground truth or predicted.
    """
    return -of_classes(logits, classes).abs()


def of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """(R, 1, ...) logits of each object's class, of (R, C, ...) or (R, 1, ...)."""
    if logits.shape[1] == 1:
        return logits
    # Not by the numbers of the rows: an exported graph would keep those of its example.
    index = classes.view(-1, *[1] * (logits.dim() - 1)).expand(-1, 1, *logits.shape[2:])
    return logits.gather(1, index)


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

    def forward(self, features: Mapping[str, Tensor], instances: list[Instances]) -> Any:
        """
        Args:
            features: maps of all images by name.
            instances: of each image; when training the proposals that hold objects, with
                `proposal_boxes`, `gt_classes` and `gt_masks`, else the detections, with
                `pred_boxes` and `pred_classes`.

        Returns:
            Losses by name when training, else `instances`, with `pred_masks`.
        """
        if self.training:
            return self.losses(features, instances)
        sample = self.sampler(features, [x.pred_boxes for x in instances])
        classes = cat([x.pred_classes for x in instances])
        mask_rcnn_inference(self.mask_logits(sample, classes), instances)
        return instances

    def losses(
        self, features: Mapping[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Losses by name; see :meth:`forward`."""
        raise NotImplementedError

    def sampler(self, features: Mapping[str, Tensor], boxes: list[Boxes]) -> Sampler:
        """What reads feature maps, of all images by name, at points of boxes of each image."""

        def sample(names: Sequence[str], coords: Tensor) -> Tensor:
            maps = [features[name] for name in names]
            scales = [self.feature_scales[name] for name in names]
            return point_sample_fine_grained_features(maps, scales, boxes, coords)[0]

        return sample

    def box_features(self, sample: Sampler, like: Tensor) -> Tensor:
        """(R, C, box_side, box_side) values on a grid of each box; `like` has R rows."""
        grid = generate_regular_grid_point_coords(like.shape[0], self.box_side, like.device)
        values = sample(self.box_in_features, grid)
        return values.unflatten(2, (self.box_side, self.box_side))

    def mask_logits(self, sample: Sampler, classes: Tensor) -> Tensor:
        """(R, 1, h, w) logits of the classes of detections.

        Args:
            sample: see `sampler`.
            classes: (R,) int64, as predicted.
        """
        raise NotImplementedError

    def _refined(
        self,
        logits_at: Callable[[Tensor], Tensor],
        classes: Tensor,
        side: int,
        doublings: int,
    ) -> Tensor:
        """(R, 1, h, w) logits: a grid of points, then doubled and mended where uncertain.

        PointRend (Kirillov et al., 2020), section 3.1 and figure 4.

        Args:
            logits_at: from (R, P, 2) points of the boxes to (R, C, P) logits.
            classes: (R,) int64, as predicted.
            side: cells along a side of the first mask.
            doublings: how often the size is doubled.
        """
        grid = generate_regular_grid_point_coords(classes.shape[0], side, classes.device)
        logits = logits_at(grid).unflatten(2, (side, side))
        for _ in range(doublings):
            logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
            side *= 2
            indices, coords = get_uncertain_point_coords_on_grid(
                calculate_uncertainty(logits, classes), self.subdivision_num_points
            )
            mended = logits_at(coords)
            places = indices[:, None].expand(-1, logits.shape[1], -1)
            logits = logits.flatten(2).scatter(2, places, mended).unflatten(2, (side, side))
        return of_classes(logits, classes)
