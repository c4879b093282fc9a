"""Region Proposal Network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping import proposal_generator as keys
from detectron2.layers import Conv2d as Conv2d  # imported from here by other projects
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling._forms import in_two_forms
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator._rpn_head import (
    RPN_HEAD_REGISTRY,
    StandardRPNHead,
    build_rpn_head,
)
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import (
    find_top_rpn_proposals,
    keep_best_anchors,
)
from detectron2.modeling.sampling import keep_sampled_labels, subsample_labels
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils._deferred import put_scalars_later
from detectron2.utils.events import get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom

__all__ = ["RPN", "RPN_HEAD_REGISTRY", "StandardRPNHead", "build_rpn_head"]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Region Proposal Network (Faster R-CNN, section 3).

    Args:
        in_features: names of the feature maps to use, from fine to coarse.
        head: see `RPN_HEAD_REGISTRY`.
        anchor_generator: from feature maps to a list of box objects.
        anchor_matcher: labels anchors by their IoU with ground truth.
        box2box_transform: from anchors to proposals.
        batch_size_per_image: anchors per image in the loss.
        positive_fraction: at most this share of them is positive.
        pre_nms_topk: (in training, at test time) proposals per level that enter NMS.
        post_nms_topk: (in training, at test time) proposals per image in the end.
        nms_thresh: IoU of NMS.
        min_box_size: proposals with a shorter or equal side are dropped, in pixels.
        anchor_boundary_thresh: anchors that leave the image by more than this many pixels take
            no part in training; negative: all do.
        loss_weight: of both losses, or by name ("loss_rpn_cls", "loss_rpn_loc").
        box_reg_loss_type: "smooth_l1", "giou", "diou" or "ciou".
        smooth_l1_beta: see `fvcore.nn.smooth_l1_loss`; 0 is L1.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        # Keyed by `self.training`.
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if not isinstance(loss_weight, dict):
            loss_weight = {"loss_rpn_cls": loss_weight, "loss_rpn_loc": loss_weight}
        self.loss_weight = loss_weight
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        arguments = read_arguments(cfg, keys.RPN)
        shapes = [input_shape[name] for name in arguments["in_features"]]
        weights = read_arguments(cfg, keys.RPN_LOSS_WEIGHTS)
        return {
            **arguments,
            **{
                name: tuple(lookup(cfg, key) for key in train_test)
                for name, train_test in keys.RPN_TRAIN_TEST.items()
            },
            "loss_weight": {
                "loss_rpn_cls": weights["all"],
                "loss_rpn_loc": weights["all"] * weights["box"],
            },
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "anchor_matcher": Matcher(
                **read_arguments(cfg, keys.ANCHOR_MATCHER), allow_low_quality_matches=True
            ),
            "box2box_transform": Box2BoxTransform(**read_arguments(cfg, keys.BOX_TRANSFORM)),
            "head": build_rpn_head(cfg, shapes),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes.

        Args:
            images: N images.
            features: (N, C, H, W) maps by name, among them `in_features`.
            gt_instances: per image, Instances with `gt_boxes`; needed in training.

        Returns:
            per image, Instances with `proposal_boxes` and `objectness_logits`, without gradient;
            and the losses by name, none at test time.

        Raises:
            ValueError: there is no ground truth in training.
        """
        anchors, logits, deltas = self._predict(features)
        losses: dict[str, Tensor] = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("RPN needs ground truth in training: pass gt_instances.")
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    def _predict(
        self, features: dict[str, Tensor], head_output: tuple[Any, Any] | None = None
    ) -> tuple[list[Boxes], list[Tensor], list[Tensor]]:
        """Per level, the R_l anchors, their logits (N, R_l) and their deltas (N, R_l, B).

        Args:
            head_output: of `rpn_head`, where somebody ran it already.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps) if head_output is None else head_output
        box_dim = self.anchor_generator.box_dim
        # (N, A * B, H, W) -> (N, H * W * A, B): the order of the anchors.
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
        deltas = [
            x.unflatten(1, (-1, box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas
        ]
        return anchors, logits, deltas

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Training targets of the anchors.

        Args:
            anchors: per level; R in all.
            gt_instances: per image, with `gt_boxes`.

        Returns:
            per image, (R,) int8 labels: 1 positive, 0 negative, -1 not in the loss; and
            (R, B) the box that each anchor is matched to, zeros where there is none.
        """
        all_anchors = type(anchors[0]).cat(anchors)
        gt_labels, matched_gt_boxes = [], []
        for instances in gt_instances:
            labels, boxes = self._match_anchors(all_anchors, instances)
            gt_labels.append(labels)
            matched_gt_boxes.append(boxes)
        return self._sample(gt_labels), matched_gt_boxes

    def _match_anchors(self, anchors: Boxes, instances: Instances) -> tuple[Tensor, Tensor]:
        """Labels (R,) before sampling and matched boxes (R, B) of one image."""
        gt_boxes = instances.gt_boxes
        # A crowded image makes a (boxes, anchors) matrix of gigabytes: hence the fallback.
        quality = retry_if_cuda_oom(self._pairwise_iou)(gt_boxes, anchors)
        matches, labels = retry_if_cuda_oom(self.anchor_matcher)(quality)
        labels = labels.to(anchors.device)
        if self.anchor_boundary_thresh >= 0:
            inside = anchors.inside_box(instances.image_size, self.anchor_boundary_thresh)
            labels = labels.masked_fill(~inside, -1)
        if len(gt_boxes) == 0:
            return labels, torch.zeros_like(anchors.tensor)
        return labels, gt_boxes.tensor[matches.to(anchors.device)]

    def _pairwise_iou(self, gt_boxes: Boxes, anchors: Boxes) -> Tensor:
        return pairwise_iou(gt_boxes, anchors)

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """(R,) labels of one image in which all but a random sample are -1."""
        positive, negative = subsample_labels(
            label, self.batch_size_per_image, self.positive_fraction, 0
        )
        sampled = torch.full_like(label, -1)
        sampled[positive] = 1
        sampled[negative] = 0
        return sampled

    def _sample_together(self, labels: list[Tensor]) -> list[Tensor]:
        # The labels do not depend on the network: as long as nothing here waits for the device,
        # they are made while it still runs the backbone.
        arguments = (self.batch_size_per_image, self.positive_fraction, 0)
        return list(keep_sampled_labels(torch.stack(labels), *arguments))

    @in_two_forms(fixed=_sample_together, skips=[_subsample_labels])
    def _sample(self, labels: list[Tensor]) -> list[Tensor]:
        """Labels (R,) of each image in which all but a random sample are -1."""
        return [self._subsample_labels(label) for label in labels]

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of a batch, per sampled anchor and weighted.

        Args:
            anchors: per level; R in all.
            pred_objectness_logits: per level, (N, R_l).
            gt_labels: see `label_and_sample_anchors`.
            pred_anchor_deltas: per level, (N, R_l, B).
            gt_boxes: see `label_and_sample_anchors`.

        Returns:
            "loss_rpn_cls" and "loss_rpn_loc".
        """
        labels = torch.stack(gt_labels)  # (N, R)
        positive = labels == 1
        num_images = len(gt_labels)
        put_scalars_later(
            get_event_storage(),
            torch.stack((positive.sum(), (labels == 0).sum())),
            lambda counts: {
                "rpn/num_pos_anchors": counts[0] / num_images,
                "rpn/num_neg_anchors": counts[1] / num_images,
            },
        )
        box_loss = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        objectness_loss = self._objectness_loss(cat(pred_objectness_logits, dim=1), labels)
        # Faster R-CNN, eq. (1), divides the box term by the number of anchor locations; dividing
        # both by the number of samples keeps their balance at every input size.
        normalizer = self.batch_size_per_image * num_images
        losses = {
            "loss_rpn_cls": objectness_loss / normalizer,
            "loss_rpn_loc": box_loss / normalizer,
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def _objectness_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the binary cross entropy over the anchors (N, R) whose label is not -1."""
        # By weights: the host need not know how many they are.
        valid = labels >= 0
        return F.binary_cross_entropy_with_logits(
            logits.masked_fill(~valid, 0), (labels == 1).float(), valid.float(), reduction="sum"
        )

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Decode and choose proposals.

        They are fixed inputs for what comes behind: no gradient flows through their coordinates
        ("approximate joint training", Faster R-CNN, section 3.2).

        Args:
            anchors: per level.
            pred_objectness_logits: per level, (N, R_l).
            pred_anchor_deltas: per level, (N, R_l, B).
            image_sizes: (height, width) of each image.

        Returns:
            per image, Instances with `proposal_boxes` and `objectness_logits`.
        """
        anchors, logits, deltas = keep_best_anchors(
            anchors, pred_objectness_logits, pred_anchor_deltas, self.pre_nms_topk[self.training]
        )
        proposals = self._decode_proposals(anchors, deltas)
        return self._find_top_proposals(proposals, logits, image_sizes)

    def _find_top_proposals(
        self, proposals: list[Tensor], logits: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        return find_top_rpn_proposals(
            proposals,
            logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )

    def _decode_proposals(
        self, anchors: list[Boxes], pred_anchor_deltas: list[Tensor]
    ) -> list[Tensor]:
        """Proposals of each level.

        Args:
            anchors: per level, R_l boxes for all images, or N * R_l for one image after another.
            pred_anchor_deltas: per level, (N, R_l, B).

        Returns:
            per level, (N, R_l, B).
        """
        counts = [deltas.shape[1] for deltas in pred_anchor_deltas]
        deltas = cat(pred_anchor_deltas, dim=1)  # (N, R, B)
        sources = cat(
            [
                boxes.tensor.unflatten(0, (-1, count)).expand(len(deltas), -1, -1)
                for boxes, count in zip(anchors, counts, strict=True)
            ],
            dim=1,
        )
        decoded = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), sources.flatten(0, 1))
        return list(decoded.view(deltas.shape).split(counts, dim=1))
