"""The heads of "C4" models, behind one ResNet stage that runs on each region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.roi_heads import BOX_POOLER, RES5_STAGE
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads._base import ROI_HEADS_REGISTRY, ROIHeads
from detectron2.modeling.roi_heads._inputs import build_pooler, check_given_boxes, required_targets
from detectron2.modeling.roi_heads._proposals import select_foreground_proposals
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import build_mask_head
from detectron2.structures import Boxes, ImageList, Instances

__all__ = ["Res5ROIHeads"]


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(ROIHeads):
    """Box and mask head behind one ResNet stage that runs on each region ("C4" models)."""

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        pooler: ROIPooler,
        res5: nn.Module | Sequence[nn.Module],
        box_predictor: nn.Module,
        mask_head: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            in_features: names of the feature maps to pool from.
            res5: module, or blocks in order, from pooled features to those of the heads.
            box_predictor: gets the mean of each region's features.
            kwargs: arguments of `ROIHeads`.
        """
        super().__init__(**kwargs)
        self.in_features = in_features
        self.pooler = pooler
        self.res5 = nn.Sequential(*res5) if isinstance(res5, (list, tuple)) else res5
        self.box_predictor = box_predictor
        self.mask_on = mask_head is not None
        if mask_head is not None:
            self.mask_head = mask_head

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        if lookup(cfg, "MODEL.KEYPOINT_ON"):
            raise ValueError("Res5ROIHeads has no keypoint head; use StandardROIHeads.")
        in_features = lookup(cfg, "MODEL.ROI_HEADS.IN_FEATURES")
        if len(in_features) != 1:
            raise ValueError(
                f"Res5ROIHeads takes one feature map, but MODEL.ROI_HEADS.IN_FEATURES is "
                f"{in_features}."
            )
        arguments = super().from_config(cfg)
        pooler = build_pooler(cfg, BOX_POOLER, input_shape, in_features)
        res5, channels = cls._build_res5_block(cfg)
        arguments.update(
            in_features=in_features,
            pooler=pooler,
            res5=res5,
            box_predictor=FastRCNNOutputLayers(
                cfg, ShapeSpec(channels=channels, height=1, width=1)
            ),
        )
        if lookup(cfg, "MODEL.MASK_ON"):
            height, width = pooler.output_size
            shape = ShapeSpec(channels=channels, height=height, width=width)
            arguments["mask_head"] = build_mask_head(cfg, shape)
        return arguments

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
        """The last stage of a ResNet as the config describes it, and its output channels."""
        resnet = lookup(cfg, "MODEL.RESNETS")
        if resnet.DEFORM_ON_PER_STAGE[-1]:
            raise ValueError(
                "Res5ROIHeads has no deformable stage: the last entry of "
                "MODEL.RESNETS.DEFORM_ON_PER_STAGE has to be False."
            )
        # The width doubles in each of the three stages after res2.
        growth = 2**3
        out_channels = resnet.RES2_OUT_CHANNELS * growth
        blocks = ResNet.make_stage(
            BottleneckBlock,
            3,
            stride_per_block=[2, 1, 1],
            in_channels=out_channels // 2,
            bottleneck_channels=resnet.NUM_GROUPS * resnet.WIDTH_PER_GROUP * growth,
            out_channels=out_channels,
            **read_arguments(cfg, RES5_STAGE),
        )
        return nn.Sequential(*blocks), out_channels

    def _shared_roi_transform(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """(K, C, h, w) features that the heads share."""
        return self.res5(self.pooler(features, boxes))

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See `ROIHeads.forward`."""
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, required_targets(targets))
        box_features, predictions = self._predict_boxes(features, proposals)
        if not self.training:
            detections, _ = self.box_predictor.inference(predictions, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        losses = self.box_predictor.losses(predictions, proposals)
        if self.mask_on:
            foreground, masks = select_foreground_proposals(proposals, self.num_classes)
            # The regions of the mask head went through the stage already.
            rows = torch.cat(masks).nonzero()[:, 0]
            losses.update(self.mask_head(box_features[rows], foreground))
        return [], losses

    def _predict_boxes(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, Any]:
        """(K, C, h, w) features of the proposals of all images, and the predictor's output."""
        maps = [features[name] for name in self.in_features]
        box_features = self._shared_roi_transform(maps, [p.proposal_boxes for p in proposals])
        return box_features, self.box_predictor(box_features.mean(dim=[2, 3]))

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add masks to instances that have `pred_boxes` and `pred_classes`."""
        check_given_boxes(self, instances)
        if not self.mask_on:
            return instances
        maps = [features[name] for name in self.in_features]
        region_features = self._shared_roi_transform(maps, [x.pred_boxes for x in instances])
        return self.mask_head(region_features, instances)
