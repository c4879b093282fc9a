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
from detectron2.modeling._forms import in_two_forms
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads._proposals import copy_matched_targets, log_sample_counts
from detectron2.modeling.sampling import subsample_images, subsample_labels
from detectron2.structures import ImageList, Instances, pairwise_iou
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
        matches = [(*self._match(*pair), pair[1].gt_classes) for pair in pairs]
        sampled = [
            self._sampled(*pair, match[0], *chosen)
            for pair, match, chosen in zip(pairs, matches, self._sample_images(matches))
        ]
        log_sample_counts(sampled, self.num_classes)
        return sampled

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

    def _sample_images_together(
        self, matches: list[tuple[Tensor, Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        classes = [self._classes_of_proposals(*match) for match in matches]
        chosen = subsample_images(
            classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )
        return [(index, of_image[index]) for index, of_image in zip(chosen, classes)]

    @in_two_forms(fixed=_sample_images_together, skips=[_sample_proposals])
    def _sample_images(
        self, matches: list[tuple[Tensor, Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """`_sample_proposals` of each image, whose arguments `matches` are."""
        return [self._sample_proposals(*match) for match in matches]
