"""Heads on regions of interest: boxes, and on the final boxes masks and keypoints."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.roi_heads import (
    BOX_POOLER,
    KEYPOINT_POOLER,
    MASK_POOLER,
    STANDARD_ROI_HEADS,
)
from detectron2.layers import ShapeSpec, nonzero_tuple
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads._base import ROI_HEADS_REGISTRY, ROIHeads, build_roi_heads
from detectron2.modeling.roi_heads._inputs import (
    build_pooler,
    check_given_boxes,
    pooled_shape,
    required_targets,
)
from detectron2.modeling.roi_heads._proposals import (
    select_foreground_proposals,
    select_proposals_with_visible_keypoints,
)
from detectron2.modeling.roi_heads._res5 import Res5ROIHeads
from detectron2.modeling.roi_heads.box_head import build_box_head
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.keypoint_head import build_keypoint_head
from detectron2.modeling.roi_heads.mask_head import build_mask_head
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.structures._selected_polygons import read_ahead
from detectron2.utils.events import get_event_storage

# Some of these are not used here; downstream code imports them from this address.
__all__ = [
    "ROI_HEADS_REGISTRY",
    "BottleneckBlock",
    "Boxes",
    "FastRCNNOutputLayers",
    "ImageList",
    "Instances",
    "Matcher",
    "ROIHeads",
    "ROIPooler",
    "Res5ROIHeads",
    "ResNet",
    "ShapeSpec",
    "StandardROIHeads",
    "add_ground_truth_to_proposals",
    "build_box_head",
    "build_keypoint_head",
    "build_mask_head",
    "build_roi_heads",
    "configurable",
    "get_event_storage",
    "nonzero_tuple",
    "pairwise_iou",
    "select_foreground_proposals",
    "select_proposals_with_visible_keypoints",
    "subsample_labels",
]


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """A box head, and where wanted a mask and a keypoint head, each with its own pooler.

    The mask and the keypoint head run on foreground proposals in training and on the final
    detections in inference.
    """

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: list[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        keypoint_in_features: list[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            box_in_features, mask_in_features, keypoint_in_features: names of the feature maps
                of each head; None for a head that does not exist.
            box_pooler, mask_pooler, keypoint_pooler: regions of those maps. Without a mask or
                keypoint pooler the head gets the maps themselves, by name.
            box_head: from region features to those of the predictor.
            box_predictor: scores and boxes, such as `FastRCNNOutputLayers`.
            train_on_pred_boxes: the other heads train on the boxes that the box head predicts
                instead of on proposals.
            kwargs: arguments of `ROIHeads`.
        """
        super().__init__(**kwargs)
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_on = mask_in_features is not None
        if self.mask_on:
            self.mask_in_features = mask_in_features
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head
        self.keypoint_on = keypoint_in_features is not None
        if self.keypoint_on:
            self.keypoint_in_features = keypoint_in_features
            self.keypoint_pooler = keypoint_pooler
            self.keypoint_head = keypoint_head
        self.train_on_pred_boxes = train_on_pred_boxes

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        arguments = {**super().from_config(cfg), **read_arguments(cfg, STANDARD_ROI_HEADS)}
        for init_head in (cls._init_box_head, cls._init_mask_head, cls._init_keypoint_head):
            # Old subclasses override these as instance methods and call them on their own.
            if inspect.ismethod(init_head):
                arguments.update(init_head(cfg, input_shape))
        return arguments

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Constructor arguments for the box head."""
        in_features = lookup(cfg, "MODEL.ROI_HEADS.IN_FEATURES")
        pooler = build_pooler(cfg, BOX_POOLER, input_shape, in_features)
        box_head = build_box_head(cfg, pooled_shape(pooler, input_shape, in_features))
        return {
            "box_in_features": in_features,
            "box_pooler": pooler,
            "box_head": box_head,
            "box_predictor": FastRCNNOutputLayers(cfg, box_head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Constructor arguments for the mask head, none if the config has no masks."""
        if not lookup(cfg, "MODEL.MASK_ON"):
            return {}
        in_features = lookup(cfg, "MODEL.ROI_HEADS.IN_FEATURES")
        pooler = build_pooler(cfg, MASK_POOLER, input_shape, in_features)
        return {
            "mask_in_features": in_features,
            "mask_pooler": pooler,
            "mask_head": build_mask_head(cfg, pooled_shape(pooler, input_shape, in_features)),
        }

    @classmethod
    def _init_keypoint_head(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Constructor arguments for the keypoint head, none if the config has no keypoints."""
        if not lookup(cfg, "MODEL.KEYPOINT_ON"):
            return {}
        in_features = lookup(cfg, "MODEL.ROI_HEADS.IN_FEATURES")
        pooler = build_pooler(cfg, KEYPOINT_POOLER, input_shape, in_features)
        head = build_keypoint_head(cfg, pooled_shape(pooler, input_shape, in_features))
        return {
            "keypoint_in_features": in_features,
            "keypoint_pooler": pooler,
            "keypoint_head": head,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See `ROIHeads.forward`."""
        if not self.training:
            detections = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        proposals = self.label_and_sample_proposals(proposals, required_targets(targets))
        losses = self._forward_box(features, proposals)
        # The mask and keypoint heads train on what `_forward_box` made of the proposals: with
        # train_on_pred_boxes it replaces their boxes.
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add masks and keypoints to instances that have `pred_boxes` and `pred_classes`."""
        check_given_boxes(self, instances)
        instances = self._forward_mask(features, instances)
        return self._forward_keypoint(features, instances)

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]) -> Any:
        """Losses of the box head when training, else detections of each image."""
        predictions = self._predict_boxes(features, proposals)
        if not self.training:
            detections, _ = self.box_predictor.inference(predictions, proposals)
            return detections
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            self._replace_boxes_by_predictions(predictions, proposals)
        return losses

    def _predict_boxes(self, features: dict[str, Tensor], proposals: list[Instances]) -> Any:
        """Output of the box predictor for the proposals of all images."""
        maps = [features[name] for name in self.box_in_features]
        box_features = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        return self.box_predictor(self.box_head(box_features))

    @torch.no_grad()
    def _replace_boxes_by_predictions(self, predictions: Any, proposals: list[Instances]) -> None:
        predicted = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
        for proposals_of_image, boxes in zip(proposals, predicted):
            proposals_of_image.proposal_boxes = Boxes(boxes)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        """Losses of the mask head when training, else the instances with masks."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
            _read_masks_ahead(instances)
        inputs = self._head_inputs(features, instances, self.mask_in_features, self.mask_pooler)
        return self.mask_head(inputs, instances)

    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        """Losses of the keypoint head when training, else the instances with keypoints."""
        if not self.keypoint_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
            instances = select_proposals_with_visible_keypoints(instances)
        inputs = self._head_inputs(
            features, instances, self.keypoint_in_features, self.keypoint_pooler
        )
        return self.keypoint_head(inputs, instances)

    def _head_inputs(
        self,
        features: dict[str, Tensor],
        instances: list[Instances],
        in_features: list[str],
        pooler: ROIPooler | None,
    ) -> Any:
        """(K, C, h, w) features of the boxes, or without a pooler the maps by name."""
        if pooler is None:
            return {name: features[name] for name in in_features}
        field = "proposal_boxes" if self.training else "pred_boxes"
        return pooler([features[name] for name in in_features], [x.get(field) for x in instances])


def _read_masks_ahead(instances: list[Instances]) -> None:
    """Let polygons be filled while a GPU runs the mask head, whose loss needs them."""
    usual = [
        x for x in instances if x.has("gt_masks") and isinstance(x.get("proposal_boxes"), Boxes)
    ]
    read_ahead([x.gt_masks for x in usual], [x.proposal_boxes.tensor for x in usual])
