"""What all heads on regions of interest share: their registry and the sampling of proposals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import read_arguments
from detectron2.config.mapping.roi_heads import PROPOSAL_MATCHER, ROI_HEADS
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads._proposals import copy_matched_targets, log_sample_counts
from detectron2.modeling.sampling import subsample_images, subsample_labels
from detectron2.structures import ImageList, Instances, pairwise_iou
from detectron2.utils._deferred import is_remote
from detectron2.utils.registry import Registry, registered

__all__ = ["ROI_HEADS_REGISTRY", "ROIHeads", "build_roi_heads"]

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
ROI_HEADS_REGISTRY.__doc__ = """
The heads of an R-CNN together, looked up by ``cfg.MODEL.ROI_HEADS.NAME`` and called as
``entry(cfg, input_shape)``; an entry is a `ROIHeads`.
"""


def build_roi_heads(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> nn.Module:
    """The heads named by ``cfg.MODEL.ROI_HEADS.NAME``."""
    return registered(ROI_HEADS_REGISTRY, cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


class ROIHeads(nn.Module):
    """Sampling of proposals for training; a subclass defines `forward`."""

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ) -> None:
        """
        Args:
            num_classes: foreground classes K; class K is background.
            batch_size_per_image: proposals of an image to train on.
            positive_fraction: at most this share of them is foreground.
            proposal_matcher: labels proposals by their overlap with ground truth.
            proposal_append_gt: ground-truth boxes are proposals as well.
        """
        super().__init__()
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.num_classes = num_classes
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        matcher = Matcher(**read_arguments(cfg, PROPOSAL_MATCHER), allow_low_quality_matches=False)
        return {"proposal_matcher": matcher, **read_arguments(cfg, ROI_HEADS)}

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            features: feature maps by name.
            proposals: of each image, with `proposal_boxes` and `objectness_logits`.
            targets: ground truth of each image, for training: `gt_boxes`, `gt_classes` and
                what the heads need, such as `gt_masks` and `gt_keypoints`.

        Returns:
            When training (sampled proposals, losses by name); else (detections, {}).
        """
        raise NotImplementedError(f"{type(self).__name__} has to define forward().")

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Match proposals with ground truth and keep those to train on.

        Returns:
            At most `batch_size_per_image` proposals of each image, with `gt_classes` (K for
            background) and, where the image has ground truth, the other `gt_*` fields of the
            object each one is matched with. Those of a background proposal mean nothing.
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        pairs = list(zip(proposals, targets))
        if self._samples_images_together(targets):
            sampled = self._label_and_sample_images(pairs)
        else:
            sampled = [self._label_and_sample_image(*pair) for pair in pairs]
        log_sample_counts(sampled, self.num_classes)
        return sampled

    def _samples_images_together(self, targets: list[Instances]) -> bool:
        """Where the host would wait for the indices of each image, unless a subclass chooses."""
        chooses = any(
            getattr(type(self), name) is not getattr(ROIHeads, name)
            for name in ("_label_and_sample_image", "_sample_proposals")
        )
        return bool(targets) and is_remote(targets[0].gt_classes) and not chooses

    def _label_and_sample_images(self, pairs: list[tuple[Instances, Instances]]) -> list[Instances]:
        matches = [self._match(*pair) for pair in pairs]
        classes = [
            self._classes_of_proposals(*match, targets.gt_classes)
            for match, (_, targets) in zip(matches, pairs)
        ]
        chosen = subsample_images(
            classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )
        return [
            self._sampled(*pair, matched_idxs, index, of_image[index])
            for pair, (matched_idxs, _), index, of_image in zip(pairs, matches, chosen, classes)
        ]

    def _label_and_sample_image(self, proposals: Instances, targets: Instances) -> Instances:
        matched_idxs, matched_labels = self._match(proposals, targets)
        sampled_idxs, gt_classes = self._sample_proposals(
            matched_idxs, matched_labels, targets.gt_classes
        )
        return self._sampled(proposals, targets, matched_idxs, sampled_idxs, gt_classes)

    def _match(self, proposals: Instances, targets: Instances) -> tuple[Tensor, Tensor]:
        overlaps = self._pairwise_iou(targets.gt_boxes, proposals.proposal_boxes)
        return self.proposal_matcher(overlaps)

    @staticmethod
    def _sampled(
        proposals: Instances,
        targets: Instances,
        matched_idxs: Tensor,
        sampled_idxs: Tensor,
        gt_classes: Tensor,
    ) -> Instances:
        """The chosen proposals of an image with their ground truth."""
        sampled = proposals[sampled_idxs]
        sampled.gt_classes = gt_classes
        if len(targets) > 0:
            copy_matched_targets(sampled, targets, matched_idxs[sampled_idxs])
        return sampled

    def _pairwise_iou(self, gt_boxes: Any, proposal_boxes: Any) -> Tensor:
        """(M, N) overlap of ground truth and proposals."""
        return pairwise_iou(gt_boxes, proposal_boxes)

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Choose proposals of one image.

        Args:
            matched_idxs: (N,) object that each proposal is matched with.
            matched_labels: (N,) 1 foreground, 0 background, -1 ignored.
            gt_classes: (M,) class of each object.

        Returns:
            (S,) indices of the chosen proposals, foreground first, and their (S,) classes.
        """
        classes = self._classes_of_proposals(matched_idxs, matched_labels, gt_classes)
        foreground, background = subsample_labels(
            classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )
        sampled = torch.cat([foreground, background])
        return sampled, classes[sampled]

    def _classes_of_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """(N,) K for background, -1 for ignored; arguments as in `_sample_proposals`."""
        if gt_classes.numel() == 0:
            return torch.full_like(matched_idxs, self.num_classes)
        classes = gt_classes[matched_idxs]
        classes = torch.where(matched_labels == 0, self.num_classes, classes)
        return torch.where(matched_labels == -1, -1, classes)
