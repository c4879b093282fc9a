"""RetinaNet."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import dense as keys
from detectron2.config.mapping import lookup, read_arguments
from detectron2.layers import CycleBatchNormList, ShapeSpec, get_norm
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch._focal_loss import dense_focal_loss
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.dense_detector import (
    permute_to_N_HWA_K as permute_to_N_HWA_K,  # imported from here by other projects
)
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou

__all__ = ["RetinaNet", "RetinaNetHead"]

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class RetinaNet(DenseDetector):
    """RetinaNet: "Focal Loss for Dense Object Detection".

    Args:
        backbone: from images to feature maps.
        head: from a list of feature maps to class logits and box deltas, see `RetinaNetHead`.
        head_in_features: names of the maps, from fine to coarse.
        anchor_generator: from those maps to a list of boxes.
        box2box_transform: from anchors to detections.
        anchor_matcher: labels anchors by their IoU with ground truth.
        num_classes: K, without background.
        focal_loss_alpha: weight of the positives in the focal loss; see the paper, eq. (5).
        focal_loss_gamma: exponent of the focal loss.
        smooth_l1_beta: where smooth L1 changes from quadratic to linear; 0 is L1.
        box_reg_loss_type: "smooth_l1", "giou", "diou" or "ciou".
        test_score_thresh: detections have a higher score.
        test_topk_candidates: per level, that enter NMS.
        test_nms_thresh: IoU of NMS.
        max_detections_per_image: after NMS.
        pixel_mean: see `DenseDetector`.
        pixel_std: see `DenseDetector`.
        vis_period: draw a training image every so many iterations, 0 for never.
        input_format: order of the channels; only drawing needs it.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str],
        anchor_generator: nn.Module,
        box2box_transform: Box2BoxTransform,
        anchor_matcher: Matcher,
        num_classes: int,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        vis_period: int = 0,
        input_format: str = "BGR",
    ) -> None:
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        self.num_classes = num_classes
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.anchor_matcher = anchor_matcher
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.vis_period = vis_period
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        arguments = read_arguments(cfg, keys.RETINANET)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        head_shapes = [shapes[name] for name in arguments["head_in_features"]]
        return {
            **arguments,
            "backbone": backbone,
            "head": RetinaNetHead(cfg, head_shapes),
            "anchor_generator": build_anchor_generator(cfg, head_shapes),
            "box2box_transform": Box2BoxTransform(
                **read_arguments(cfg, keys.RETINANET_BOX_TRANSFORM)
            ),
            "anchor_matcher": Matcher(
                **read_arguments(cfg, keys.RETINANET_MATCHER), allow_low_quality_matches=True
            ),
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: Any,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses "loss_cls" and "loss_box_reg"; see `DenseDetector.forward_training`."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes)

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of a batch, divided by a running mean of the number of positive anchors.

        Args:
            anchors: per level; R in all.
            pred_logits: per level, (N, R_l, K).
            gt_labels: per image, (R,) classes; K is background, -1 takes no part.
            pred_anchor_deltas: per level, (N, R_l, 4).
            gt_boxes: per image, (R, 4) the box that each anchor is matched to.

        Returns:
            "loss_cls" and "loss_box_reg".
        """
        labels = torch.stack(gt_labels)  # (N, R)
        positive = (labels >= 0) & (labels != self.num_classes)
        normalizer = self._mean_number_of_positives(positive, 100)

        loss_cls = dense_focal_loss(
            pred_logits, labels, self.focal_loss_alpha, self.focal_loss_gamma
        )
        loss_box_reg = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Training targets of the anchors.

        Args:
            anchors: per level; R in all.
            gt_instances: per image, with `gt_boxes` and `gt_classes`.

        Returns:
            per image, (R,) int64 classes (K is background, -1 takes no part in the loss); and
            (R, 4) the box that each anchor is matched to, zeros where there is none.
        """
        all_anchors = Boxes.cat(anchors)
        gt_labels, matched_gt_boxes = [], []
        for instances in gt_instances:
            quality = pairwise_iou(instances.gt_boxes, all_anchors)
            matches, anchor_labels = self.anchor_matcher(quality)
            if len(instances) == 0:
                gt_labels.append(torch.full_like(matches, self.num_classes))
                matched_gt_boxes.append(torch.zeros_like(all_anchors.tensor))
                continue
            labels = instances.gt_classes[matches]
            labels.masked_fill_(anchor_labels == 0, self.num_classes)
            labels.masked_fill_(anchor_labels == -1, -1)
            gt_labels.append(labels)
            matched_gt_boxes.append(instances.gt_boxes.tensor[matches])
        return gt_labels, matched_gt_boxes

    def _scores_and_deltas(self, predictions: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, (N, R_l, K) scores and (N, R_l, 4) deltas, from the head's output."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        return [level.sigmoid() for level in logits], deltas


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions, one for classes and one for boxes (the paper's figure 3).

    All levels share the weights. "BN" and "SyncBN" keep statistics of each level apart.

    Args:
        input_shape: of each feature map; with equal channels.
        num_classes: K, without background.
        num_anchors: A, per cell.
        conv_dims: output channels of each convolution of a tower.
        norm: see `detectron2.layers.get_norm`; "" for none.
        prior_prob: score of every anchor and class before training (the paper's section 3.3).
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        num_classes: int,
        num_anchors: int,
        conv_dims: Sequence[int],
        norm: str | Callable[[int], nn.Module] = "",
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        self._num_levels = len(input_shape)
        make_norm = _norm_per_level(norm, self._num_levels)
        channels = [input_shape[0].channels, *conv_dims]
        self.cls_subnet = _tower(channels, make_norm)
        self.bbox_subnet = _tower(channels, make_norm)
        self.cls_score = _conv3x3(channels[-1], num_anchors * num_classes)
        self.bbox_pred = _conv3x3(channels[-1], num_anchors * 4)
        # A dense detector sees far more background than objects: starting from a low score, the
        # background does not swamp the first iterations.
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(cls, cfg: Any, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        num_anchors = set(build_anchor_generator(cfg, input_shape).num_anchors)
        if len(num_anchors) > 1:
            raise ValueError(
                "The head shares its weights between levels, so they need equal numbers of "
                f"anchors per cell, not {sorted(num_anchors)}."
            )
        num_convs = lookup(cfg, keys.RETINANET_NUM_CONVS)
        return {
            **read_arguments(cfg, keys.RETINANET_HEAD),
            "input_shape": input_shape,
            "conv_dims": [input_shape[0].channels] * num_convs,
            "num_anchors": num_anchors.pop(),
        }

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], ...]:
        """Predict on every level.

        Args:
            features: per level, (N, C, H, W).

        Returns:
            per level, class logits (N, A * K, H, W); and deltas (N, A * 4, H, W).
        """
        if len(features) != self._num_levels:
            raise ValueError(
                f"This head is made for {self._num_levels} feature maps, not {len(features)}."
            )
        logits = [self.cls_score(self.cls_subnet(feature)) for feature in features]
        return logits, [self.bbox_pred(self.bbox_subnet(feature)) for feature in features]


def _norm_per_level(
    norm: str | Callable[[int], nn.Module], num_levels: int
) -> Callable[[int], nn.Module | None]:
    """Function from channels to the norm behind a convolution."""
    batch_norms = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}
    if norm in batch_norms:
        bn_class = batch_norms[norm]
        return lambda channels: CycleBatchNormList(
            num_levels, bn_class=bn_class, num_features=channels
        )
    if isinstance(get_norm(norm, 32), nn.modules.batchnorm._BatchNorm):
        logger.warning("A shared batch norm mixes the statistics of all levels: norm=%s.", norm)
    return partial(get_norm, norm)


def _tower(channels: Sequence[int], make_norm: Callable[[int], nn.Module | None]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for in_channels, out_channels in zip(channels, channels[1:]):
        norm = make_norm(out_channels)
        layers.append(_conv3x3(in_channels, out_channels))
        layers.extend([] if norm is None else [norm])
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return conv
