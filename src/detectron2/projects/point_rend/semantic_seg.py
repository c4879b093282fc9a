"""PointRend for semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.point_rend.point_features import (
    get_uncertain_point_coords_on_grid,
    get_uncertain_point_coords_with_randomness,
    point_sample,
)
from detectron2.projects.point_rend.point_head import build_point_head
from detectron2.utils.registry import registered

__all__ = ["PointRendSemSegHead", "calculate_uncertainty"]


def calculate_uncertainty(sem_seg_logits: Tensor) -> Tensor:
    """(N, 1, ...) the second best score minus the best one, of (N, C, ...) scores."""
    best = sem_seg_logits.topk(2, dim=1).values
    return best[:, 1:2] - best[:, 0:1]


@SEM_SEG_HEADS_REGISTRY.register()
class PointRendSemSegHead(nn.Module):
    """Another head, whose scores are mended at points."""

    @configurable
    def __init__(
        self,
        *,
        coarse_sem_seg_head: nn.Module,
        point_head: nn.Module,
        in_features: list[str],
        train_num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        subdivision_steps: int,
        subdivision_num_points: int,
    ) -> None:
        """
        Args:
            coarse_sem_seg_head: has `layers`, `losses` and `ignore_value`, such as `SemSegFPNHead`.
            point_head: such as `StandardPointHead`.
            in_features: names of the maps that the point head sees.
            train_num_points: points of an image.
            oversample_ratio, importance_sample_ratio: see
                `get_uncertain_point_coords_with_randomness`.
            subdivision_steps: how often the inference doubles the size.
            subdivision_num_points: points that are mended each time.
        """
        super().__init__()
        self.coarse_sem_seg_head = coarse_sem_seg_head
        self.point_head = point_head
        self.ignore_value = coarse_sem_seg_head.ignore_value
        self.in_features = in_features
        self.train_num_points = train_num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.subdivision_steps = subdivision_steps
        self.subdivision_num_points = subdivision_num_points

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        points = cfg.MODEL.POINT_HEAD
        if points.NUM_CLASSES != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
            raise ValueError(
                f"MODEL.POINT_HEAD.NUM_CLASSES is {points.NUM_CLASSES} and "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}: they must "
                "be the same."
            )
        channels = sum(input_shape[name].channels for name in points.IN_FEATURES)
        coarse = registered(SEM_SEG_HEADS_REGISTRY, points.COARSE_SEM_SEG_HEAD_NAME)
        return {
            "coarse_sem_seg_head": coarse(cfg, input_shape),
            "point_head": build_point_head(cfg, ShapeSpec(channels=channels, height=1, width=1)),
            "in_features": points.IN_FEATURES,
            "train_num_points": points.TRAIN_NUM_POINTS,
            "oversample_ratio": points.OVERSAMPLE_RATIO,
            "importance_sample_ratio": points.IMPORTANCE_SAMPLE_RATIO,
            "subdivision_steps": points.SUBDIVISION_STEPS,
            "subdivision_num_points": points.SUBDIVISION_NUM_POINTS,
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Returns:
            When training, (None, losses by name) for `targets` (N, H, W) of class labels;
            else ((N, num_classes, H, W) scores, {}), of 2 ** subdivision_steps times the size of
            the coarse ones.
        """
        coarse = self.coarse_sem_seg_head.layers(features)
        if not self.training:
            return self._refined(features, coarse), {}
        losses = self.coarse_sem_seg_head.losses(coarse, targets)
        losses["loss_sem_seg_point"] = self._point_loss(features, coarse, targets)
        return None, losses

    def _point_loss(
        self, features: Mapping[str, Tensor], coarse: Tensor, targets: Tensor
    ) -> Tensor:
        """Mean cross entropy over the points that are not `ignore_value`, 0 if all are."""
        with torch.no_grad():
            coords = get_uncertain_point_coords_with_randomness(
                coarse,
                calculate_uncertainty,
                self.train_num_points,
                self.oversample_ratio,
                self.importance_sample_ratio,
            )
            labels = point_sample(targets[:, None].to(torch.float32), coords, mode="nearest")
            labels = labels[:, 0].to(torch.int64)
        scores = self._scores_at(features, coarse, coords)
        total = F.cross_entropy(scores, labels, ignore_index=self.ignore_value, reduction="sum")
        return total / (labels != self.ignore_value).sum().clamp(min=1)

    def _scores_at(self, features: Mapping[str, Tensor], coarse: Tensor, coords: Tensor) -> Tensor:
        """(N, num_classes, P)."""
        fine = [point_sample(features[name], coords) for name in self.in_features]
        return self.point_head(torch.cat(fine, dim=1), point_sample(coarse, coords))

    def _refined(self, features: Mapping[str, Tensor], coarse: Tensor) -> Tensor:
        scores = coarse
        for _ in range(self.subdivision_steps):
            scores = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
            indices, coords = get_uncertain_point_coords_on_grid(
                calculate_uncertainty(scores), self.subdivision_num_points
            )
            mended = self._scores_at(features, coarse, coords)
            shape = scores.shape
            places = indices[:, None].expand(-1, shape[1], -1)
            scores = scores.flatten(start_dim=2).scatter(2, places, mended).view(shape)
        return scores
