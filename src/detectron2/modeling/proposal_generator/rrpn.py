"""Region Proposal Network of rotated boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.config import configurable
from detectron2.config.mapping import proposal_generator as keys
from detectron2.config.mapping import read_arguments
from detectron2.layers import ShapeSpec, batched_nms_rotated
from detectron2.layers import cat as cat  # part of this module's address
from detectron2.modeling.box_regression import Box2BoxTransformRotated
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import (
    Candidates,
    best_of_each_level,
    finite_predictions,
    suppress,
)
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Instances, RotatedBoxes, pairwise_iou_rotated
from detectron2.utils.memory import retry_if_cuda_oom as retry_if_cuda_oom  # likewise

__all__ = ["RRPN", "find_top_rrpn_proposals"]


def find_top_rrpn_proposals(
    proposals: list[Tensor],
    pred_objectness_logits: list[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """`find_top_rpn_proposals` for rotated boxes.

    Only boxes that are almost upright are clipped: cutting a turned one leaves no rotated box.

    Args:
        proposals: per level, (N, R_l, 5).
        pred_objectness_logits: per level, (N, R_l).
        image_sizes: (height, width) of each image.
        nms_thresh: rotated IoU above which the lower of two boxes goes.
        pre_nms_topk: boxes per level and image that enter NMS.
        post_nms_topk: boxes per image at the end.
        min_box_size: both sides must be longer, in pixels.
        training: whether values that are not finite raise; otherwise they are dropped.

    Returns:
        per image, Instances with `proposal_boxes` and `objectness_logits`, by descending logit.

    Raises:
        FloatingPointError: in training, a box or logit is infinite or NaN.
    """
    boxes, logits, groups = best_of_each_level(proposals, pred_objectness_logits, pre_nms_topk)
    usable = finite_predictions(boxes, logits, training)
    clipped = []
    for image_boxes, image_size in zip(boxes, image_sizes, strict=True):
        rotated = RotatedBoxes(image_boxes)
        rotated.clip(image_size)
        clipped.append(rotated.tensor)
    boxes = torch.stack(clipped)
    usable &= (boxes[..., 2:4] > min_box_size).all(dim=-1)
    candidates = Candidates(boxes, logits, groups, usable)
    return suppress(
        RotatedBoxes, batched_nms_rotated, candidates, image_sizes, nms_thresh, post_nms_topk
    )


@PROPOSAL_GENERATOR_REGISTRY.register()
class RRPN(RPN):
    """RPN of rotated boxes ("Arbitrary-Oriented Scene Text Detection via Rotation Proposals").

    Takes the arguments of `RPN`.

    Raises:
        NotImplementedError: `anchor_boundary_thresh` is not negative.
    """

    @configurable
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.anchor_boundary_thresh >= 0:
            raise NotImplementedError(
                f"anchor_boundary_thresh is {self.anchor_boundary_thresh} (MODEL.RPN."
                "BOUNDARY_THRESH): RRPN trains on all anchors; use -1."
            )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        arguments = super().from_config(cfg, input_shape)
        transform = Box2BoxTransformRotated(**read_arguments(cfg, keys.BOX_TRANSFORM))
        return {**arguments, "box2box_transform": transform}

    def _pairwise_iou(self, gt_boxes: RotatedBoxes, anchors: RotatedBoxes) -> Tensor:
        """(M, N) IoU, a millionth smaller where the centres are far from each other.

        An object that lies inside of several anchors has exactly the same IoU with all of them,
        and the matcher would make each of them its best. The nearest one is meant.
        """
        offset = gt_boxes.tensor[:, None, :2] - anchors.tensor[None, :, :2]
        distance = offset[..., 0].hypot(offset[..., 1])
        return pairwise_iou_rotated(gt_boxes, anchors) * (1 - 1e-6 * distance / (distance + 1))

    def _find_top_proposals(
        self, proposals: list[Tensor], logits: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        return find_top_rrpn_proposals(
            proposals,
            logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )
