"""FCOS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransformLinear, _dense_box_regression_loss
from detectron2.modeling.meta_arch._focal_loss import dense_focal_loss
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, ImageList, Instances, pairwise_point_box_distance

__all__ = ["FCOS", "FCOSHead"]


class FCOS(DenseDetector):
    """FCOS, "Fully Convolutional One-Stage Object Detection", with one anchor per cell.

    The anchor is a square of the level's stride around the middle of the cell: its centre is the
    paper's location, its side the paper's regression unit.

    Args:
        backbone: from images to feature maps.
        head: from a list of maps to class logits, box deltas and centerness, see `FCOSHead`.
        head_in_features: names of the maps; by default all, from fine to coarse.
        box2box_transform: from anchors to detections; by default distances in strides.
        num_classes: K, without background.
        center_sampling_radius: positives lie within this many strides of an object's centre.
        focal_loss_alpha: weight of the positives in the focal loss.
        focal_loss_gamma: exponent of the focal loss.
        test_score_thresh: detections have a higher score.
        test_topk_candidates: per level, that enter NMS.
        test_nms_thresh: IoU of NMS.
        max_detections_per_image: after NMS.
        pixel_mean: see `DenseDetector`.
        pixel_std: see `DenseDetector`.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str] | None = None,
        box2box_transform: Box2BoxTransformLinear | None = None,
        num_classes: int,
        center_sampling_radius: float = 1.5,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        test_score_thresh: float = 0.2,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        shapes = backbone.output_shape()
        strides = [shapes[name].stride for name in self.head_in_features]
        self.num_classes = num_classes
        self.anchor_generator = DefaultAnchorGenerator(
            sizes=[[stride] for stride in strides], aspect_ratios=[1.0], strides=strides, offset=0.5
        )
        self.box2box_transform = box2box_transform or Box2BoxTransformLinear(normalize_by_size=True)
        self.center_sampling_radius = float(center_sampling_radius)
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: Any,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses "loss_fcos_cls", "loss_fcos_loc" and "loss_fcos_ctr"; see `DenseDetector`."""
        logits, deltas, centerness = self._transpose_dense_predictions(
            predictions, [self.num_classes, 4, 1]
        )
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes, centerness)

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Training targets of the anchors.

        Args:
            anchors: per level; R in all.
            gt_instances: per image, with `gt_boxes` and `gt_classes`.

        Returns:
            per image, (R,) int64 classes, K is background; and (R, 4) the box that each anchor is
            matched to, anything where it is background.
        """
        gt_labels, matched_gt_boxes = [], []
        for instances in gt_instances:
            if len(instances) == 0:
                no_boxes = torch.zeros_like(Boxes.cat(anchors).tensor)
                labels = instances.gt_classes.new_full((len(no_boxes),), self.num_classes)
                gt_labels.append(labels)
                matched_gt_boxes.append(no_boxes)
                continue
            matches = self._match_anchors(instances.gt_boxes, anchors)
            labels = instances.gt_classes[matches]
            gt_labels.append(labels.masked_fill_(matches < 0, self.num_classes))
            matched_gt_boxes.append(instances.gt_boxes.tensor[matches])
        return gt_labels, matched_gt_boxes

    def _match_anchors(self, gt_boxes: Boxes, anchors: list[Boxes]) -> Tensor:
        """Match the anchors of one image.

        An object is a candidate of an anchor if the anchor's centre lies in the object, near the
        object's own centre, and the object's extent suits the level; of several candidates the
        smallest wins (FCOS paper, section 3.2).

        Returns:
            (R,) int64 index into `gt_boxes`, -1 without a candidate.
        """
        all_anchors = Boxes.cat(anchors)
        strides = all_anchors.tensor[:, 2] - all_anchors.tensor[:, 0]  # (R,)
        centers = all_anchors.get_centers()
        from_gt_center = (centers[:, None] - gt_boxes.get_centers()[None]).abs().amax(dim=2)
        near_center = from_gt_center < self.center_sampling_radius * strides[:, None]  # (R, M)

        distances = pairwise_point_box_distance(centers, gt_boxes)  # (R, M, 4)
        inside = distances.amin(dim=2) > 0
        # The paper's bounds 64, 128, ... are 8 strides; the ends of the pyramid are open.
        lower, upper = strides * 4, strides * 8
        lower[: len(anchors[0])] = 0
        upper[len(upper) - len(anchors[-1]) :] = math.inf
        extent = distances.amax(dim=2)
        suits_level = (extent > lower[:, None]) & (extent < upper[:, None])

        candidate = near_center & inside & suits_level
        areas = gt_boxes.area().expand_as(extent).masked_fill(~candidate, math.inf)
        smallest, matches = areas.min(dim=1)
        return matches.masked_fill(smallest.isinf(), -1)

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
        pred_centerness: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of a batch, divided by a running mean of the number of positive anchors.

        Args:
            anchors: per level; R in all.
            pred_logits: per level, (N, R_l, K).
            gt_labels: see `label_anchors`.
            pred_anchor_deltas: per level, (N, R_l, 4).
            gt_boxes: see `label_anchors`.
            pred_centerness: per level, (N, R_l, 1) logits.

        Returns:
            "loss_fcos_cls", "loss_fcos_loc" and "loss_fcos_ctr".
        """
        labels = torch.stack(gt_labels)  # (N, R)
        positive = (labels >= 0) & (labels != self.num_classes)
        normalizer = self._mean_number_of_positives(positive, 300)

        loss_cls = dense_focal_loss(
            pred_logits, labels, self.focal_loss_alpha, self.focal_loss_gamma
        )
        loss_box_reg = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type="giou",
        )
        # By weights: the host need not know how many are positive. Elsewhere targets are NaN.
        targets = self.compute_ctrness_targets(anchors, gt_boxes).masked_fill(~positive, 0)
        loss_centerness = F.binary_cross_entropy_with_logits(
            cat(pred_centerness, dim=1).squeeze(dim=2).masked_fill(~positive, 0),
            targets,
            positive.to(targets.dtype),
            reduction="sum",
        )
        return {
            "loss_fcos_cls": loss_cls / normalizer,
            "loss_fcos_loc": loss_box_reg / normalizer,
            "loss_fcos_ctr": loss_centerness / normalizer,
        }

    def compute_ctrness_targets(self, anchors: list[Boxes], gt_boxes: list[Tensor]) -> Tensor:
        """Centerness of the anchors in their boxes (FCOS paper, eq. 3).

        Args:
            anchors: per level; R in all.
            gt_boxes: per image, (R, 4) the box that each anchor is matched to.

        Returns:
            (N, R), 1 in the middle of the box, 0 at its border; without meaning outside of it.
        """
        sources = Boxes.cat(anchors).tensor
        distances = torch.stack(
            [self.box2box_transform.get_deltas(sources, boxes) for boxes in gt_boxes]
        )  # (N, R, 4)
        horizontal, vertical = distances[..., 0::2], distances[..., 1::2]
        balance_x = horizontal.amin(dim=-1) / horizontal.amax(dim=-1)
        balance_y = vertical.amin(dim=-1) / vertical.amax(dim=-1)
        return torch.sqrt(balance_x * balance_y)

    def _scores_and_deltas(self, predictions: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, (N, R_l, K) scores and (N, R_l, 4) distances, from the head's output."""
        logits, deltas, centerness = self._transpose_dense_predictions(
            predictions, [self.num_classes, 4, 1]
        )
        # The geometric mean ranks like the paper's product and stays on the scale of a score.
        scores = [
            (level_logits.sigmoid() * level_centerness.sigmoid()).sqrt()
            for level_logits, level_centerness in zip(logits, centerness, strict=True)
        ]
        return scores, deltas


class FCOSHead(RetinaNetHead):
    """`RetinaNetHead` with one anchor per cell, and centerness beside the boxes.

    The paper's learned scale of each level is left out: distances in strides need none.

    Args:
        input_shape: of each feature map; with equal channels.
        conv_dims: output channels of each convolution of a tower.
        kwargs: other arguments of `RetinaNetHead`.
    """

    def __init__(
        self, *, input_shape: Sequence[ShapeSpec], conv_dims: Sequence[int], **kwargs: Any
    ) -> None:
        super().__init__(input_shape=input_shape, conv_dims=conv_dims, num_anchors=1, **kwargs)
        self.ctrness = nn.Conv2d(conv_dims[-1], 1, kernel_size=3, padding=1)
        nn.init.normal_(self.ctrness.weight, std=0.01)
        nn.init.zeros_(self.ctrness.bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], ...]:
        """Predict on every level.

        Args:
            features: per level, (N, C, H, W).

        Returns:
            per level, class logits (N, K, H, W); deltas (N, 4, H, W); and centerness logits
            (N, 1, H, W).
        """
        logits = [self.cls_score(self.cls_subnet(feature)) for feature in features]
        box_features = [self.bbox_subnet(feature) for feature in features]
        deltas = [self.bbox_pred(feature) for feature in box_features]
        return logits, deltas, [self.ctrness(feature) for feature in box_features]
