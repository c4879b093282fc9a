"""Faster R-CNN with rotated boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detectron2.config import configurable
from detectron2.config.mapping import lookup
from detectron2.config.mapping.roi_heads import BOX_POOLER, BOX_TRANSFORM
from detectron2.layers import ShapeSpec, batched_nms_rotated
from detectron2.modeling.box_regression import Box2BoxTransformRotated
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads._candidates import deal_out, find_candidates
from detectron2.modeling.roi_heads._inputs import build_pooler, pooled_shape
from detectron2.modeling.roi_heads.box_head import build_box_head
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Instances, RotatedBoxes, pairwise_iou_rotated
from detectron2.utils.events import get_event_storage

# Some of these are not used here; downstream code imports them from this address.
__all__ = [
    "Box2BoxTransformRotated",
    "FastRCNNOutputLayers",
    "Instances",
    "ROIPooler",
    "RROIHeads",
    "RotatedBoxes",
    "RotatedFastRCNNOutputLayers",
    "ShapeSpec",
    "StandardROIHeads",
    "add_ground_truth_to_proposals",
    "batched_nms_rotated",
    "build_box_head",
    "configurable",
    "fast_rcnn_inference_rotated",
    "fast_rcnn_inference_single_image_rotated",
    "get_event_storage",
    "pairwise_iou_rotated",
]


def fast_rcnn_inference_rotated(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """As `fast_rcnn_inference`, for boxes of five numbers (x, y, width, height, angle)."""
    of_images = [
        fast_rcnn_inference_single_image_rotated(*image, score_thresh, nms_thresh, topk_per_image)
        for image in zip(boxes, scores, image_shapes)
    ]
    return [results for results, _ in of_images], [kept for _, kept in of_images]


def fast_rcnn_inference_single_image_rotated(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, Tensor]:
    """`fast_rcnn_inference_rotated` of one image.

    Args:
        boxes: (R, K * 5) or (R, 5).
    """
    found = find_candidates([boxes], [scores], [image_shape], score_thresh, box_dim=5)
    rotated = RotatedBoxes(found.boxes)
    rotated.clip(image_shape)
    kept = batched_nms_rotated(rotated.tensor, found.scores, found.classes, nms_thresh)
    results, rows = deal_out(found, rotated, kept, [image_shape], topk_per_image)
    return results[0], rows[0]


class RotatedFastRCNNOutputLayers(FastRCNNOutputLayers):
    """`FastRCNNOutputLayers` whose boxes are rotated."""

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        arguments = super().from_config(cfg, input_shape)
        transform = Box2BoxTransformRotated(weights=lookup(cfg, BOX_TRANSFORM["weights"]))
        return {**arguments, "box2box_transform": transform}

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Final detections of each image, and the proposals they come from."""
        return fast_rcnn_inference_rotated(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )


@ROI_HEADS_REGISTRY.register()
class RROIHeads(StandardROIHeads):
    """A box head on rotated proposals; there are no masks and no keypoints."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        """
        Args:
            kwargs: arguments of `StandardROIHeads`.
        """
        super().__init__(**kwargs)
        if self.mask_on or self.keypoint_on:
            raise ValueError("RROIHeads has neither a mask nor a keypoint head.")
        if self.train_on_pred_boxes:
            raise ValueError("RROIHeads has no other head to train on predicted boxes.")

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        pooler_type = lookup(cfg, BOX_POOLER["pooler_type"])
        if pooler_type != "ROIAlignRotated":
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.POOLER_TYPE is {pooler_type!r}; RROIHeads needs "
                "'ROIAlignRotated'."
            )
        in_features = lookup(cfg, "MODEL.ROI_HEADS.IN_FEATURES")
        pooler = build_pooler(cfg, BOX_POOLER, input_shape, in_features)
        box_head = build_box_head(cfg, pooled_shape(pooler, input_shape, in_features))
        return {
            "box_in_features": in_features,
            "box_pooler": pooler,
            "box_head": box_head,
            "box_predictor": RotatedFastRCNNOutputLayers(cfg, box_head.output_shape),
        }

    def _pairwise_iou(self, gt_boxes: RotatedBoxes, proposal_boxes: RotatedBoxes) -> Tensor:
        return pairwise_iou_rotated(gt_boxes, proposal_boxes)
