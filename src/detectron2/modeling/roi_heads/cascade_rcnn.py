"""Cascade R-CNN: box heads in a row, each refining the boxes of the one before."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import lookup
from detectron2.config.mapping.roi_heads import BOX_POOLER
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads._inputs import build_pooler, pooled_shape, required_targets
from detectron2.modeling.roi_heads._proposals import log_sample_counts
from detectron2.modeling.roi_heads.box_head import build_box_head
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.sampling import rows_of_masks
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.structures.boxes import clip_corners
from detectron2.utils._deferred import check_later
from detectron2.utils.events import get_event_storage, has_event_storage

# Some of these are not used here; downstream code imports them from this address.
__all__ = [
    "Box2BoxTransform",
    "Boxes",
    "CascadeROIHeads",
    "FastRCNNOutputLayers",
    "Instances",
    "Matcher",
    "ROIPooler",
    "ShapeSpec",
    "StandardROIHeads",
    "build_box_head",
    "configurable",
    "fast_rcnn_inference",
    "get_event_storage",
    "pairwise_iou",
]


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by `scale`."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return grad_output * ctx.scale, None


# predictor of a stage, what it predicted, and for which proposals
StageOutput = tuple[nn.Module, Any, list[Instances]]


def _predicted_boxes(output: StageOutput) -> list[Tensor]:
    predictor, predictions, proposals = output
    return predictor.predict_boxes(predictions, proposals)


@ROI_HEADS_REGISTRY.register()
class CascadeROIHeads(StandardROIHeads):
    """Cascade R-CNN: Delving into High Quality Object Detection (Cai & Vasconcelos, 2018).

    Each stage takes the boxes of the one before as proposals and is trained at a higher
    overlap. In inference the scores of the stages are averaged, and the boxes are those of the
    last.
    """

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        proposal_matchers: Sequence[Matcher],
        **kwargs: Any,
    ) -> None:
        """
        Args:
            box_heads, box_predictors, proposal_matchers: one of each for every stage. The
                first matcher samples the proposals, the others label the boxes of the stage
                before; the boxes of a stage do not depend on the class.
            kwargs: arguments of `StandardROIHeads` but `proposal_matcher`.
        """
        num_stages = len(box_heads)
        if not num_stages == len(box_predictors) == len(proposal_matchers):
            raise ValueError(
                f"Every stage of a cascade needs a head, a predictor and a matcher; there are "
                f"{num_stages}, {len(box_predictors)} and {len(proposal_matchers)}."
            )
        super().__init__(
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            proposal_matcher=proposal_matchers[0],
            **kwargs,
        )
        self.num_cascade_stages = num_stages
        self.proposal_matchers = proposal_matchers

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        arguments = super().from_config(cfg, input_shape)
        del arguments["proposal_matcher"]
        return arguments

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Constructor arguments for the box heads of all stages."""
        cascade = lookup(cfg, "MODEL.ROI_BOX_CASCADE_HEAD")
        if not lookup(cfg, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"):
            raise ValueError(
                "CascadeROIHeads refines one box for all classes: set "
                "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG to True."
            )
        if cascade.IOUS[0] != lookup(cfg, "MODEL.ROI_HEADS.IOU_THRESHOLDS")[0]:
            raise ValueError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS starts with {cascade.IOUS[0]}, but proposals are "
                f"sampled at MODEL.ROI_HEADS.IOU_THRESHOLDS {cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS}; "
                "the two have to agree."
            )
        in_features = lookup(cfg, "MODEL.ROI_HEADS.IN_FEATURES")
        pooler = build_pooler(cfg, BOX_POOLER, input_shape, in_features)
        shape = pooled_shape(pooler, input_shape, in_features)
        heads, predictors, matchers = [], [], []
        for iou, weights in zip(cascade.IOUS, cascade.BBOX_REG_WEIGHTS, strict=True):
            head = build_box_head(cfg, shape)
            heads.append(head)
            predictors.append(
                FastRCNNOutputLayers(
                    cfg, head.output_shape, box2box_transform=Box2BoxTransform(weights=weights)
                )
            )
            matchers.append(Matcher([iou], [0, 1], allow_low_quality_matches=False))
        return {
            "box_in_features": in_features,
            "box_pooler": pooler,
            "box_heads": heads,
            "box_predictors": predictors,
            "proposal_matchers": matchers,
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
        targets = required_targets(targets)
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals, targets)
        # The other heads train on the proposals of the first stage.
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def _forward_box(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        """Losses of all stages when training, by name and stage; else the detections.

        Args:
            targets: ground truth that the boxes between stages are matched with.
        """
        outputs = self._run_stages(features, proposals, targets)
        if self.training:
            return self._stage_losses(outputs)
        return self._combine_stages(outputs, [p.image_size for p in proposals])

    def _run_stages(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> list[StageOutput]:
        """Output of every stage; the boxes of each are the proposals of the next."""
        maps = [features[name] for name in self.box_in_features]
        image_sizes = [p.image_size for p in proposals]
        outputs: list[StageOutput] = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                boxes = _predicted_boxes(outputs[-1])
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, stage, targets)
            predictions = self._run_stage(maps, proposals, stage)
            outputs.append((predictor, predictions, proposals))
        return outputs

    def _stage_losses(self, outputs: Sequence[StageOutput]) -> dict[str, Tensor]:
        """Losses of every stage; their names end in the number of the stage."""
        losses = {}
        for stage, (predictor, predictions, proposals) in enumerate(outputs):
            scope: Any = contextlib.nullcontext()
            if has_event_storage():
                scope = get_event_storage().name_scope(f"stage{stage}")
            with scope:
                of_stage = predictor.losses(predictions, proposals)
            losses.update({f"{name}_stage{stage}": loss for name, loss in of_stage.items()})
        return losses

    def _combine_stages(
        self, outputs: Sequence[StageOutput], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Detections from the boxes of the last stage and the mean scores of all."""
        last_predictor = outputs[-1][0]
        detections, _ = fast_rcnn_inference(
            _predicted_boxes(outputs[-1]),
            self._mean_scores(outputs),
            image_sizes,
            last_predictor.test_score_thresh,
            last_predictor.test_nms_thresh,
            last_predictor.test_topk_per_image,
        )
        return detections

    @staticmethod
    def _mean_scores(outputs: Sequence[StageOutput]) -> list[Tensor]:
        """For each image, (R, K + 1) the mean of the stages' probabilities."""
        by_stage = [
            predictor.predict_probs(predictions, proposals)
            for predictor, predictions, proposals in outputs
        ]
        return [torch.stack(of_image).mean(dim=0) for of_image in zip(*by_stage)]

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Write `gt_classes` and `gt_boxes` into the proposals of a stage.

        All proposals are kept: they are few, and sampled before.
        """
        for p, t in zip(proposals, targets):
            matched_idxs, labels = self.proposal_matchers[stage](
                pairwise_iou(t.gt_boxes, p.proposal_boxes)
            )
            if len(t) > 0:
                p.gt_classes = torch.where(
                    labels == 0, self.num_classes, t.gt_classes[matched_idxs]
                )
                p.gt_boxes = t.gt_boxes[matched_idxs]
            else:
                p.gt_classes = torch.full_like(matched_idxs, self.num_classes)
                p.gt_boxes = Boxes(torch.zeros_like(p.proposal_boxes.tensor))
        log_sample_counts(proposals, self.num_classes, prefix=f"stage{stage}/")
        return proposals

    def _run_stage(self, features: list[Tensor], proposals: list[Instances], stage: int) -> Any:
        """Output of one stage's predictor for `proposals`.

        Args:
            features: the maps of `box_in_features`.
        """
        box_features = self.box_pooler(features, [p.proposal_boxes for p in proposals])
        # The features get the gradient of every stage; their mean instead of their sum keeps
        # the backbone's learning rate.
        box_features = _ScaleGradient.apply(box_features, 1.0 / self.num_cascade_stages)
        return self.box_predictor[stage](self.box_head[stage](box_features))

    def _create_proposals_from_boxes(
        self, boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Proposals from predicted boxes, clipped, without a way back for gradients.

        Args:
            boxes: (R, 4) of each image.
            image_sizes: (height, width) of each image.
        """
        clipped = [
            Boxes(clip_corners(of_image.detach(), size))
            for of_image, size in zip(boxes, image_sizes)
        ]
        # In inference every row stays, because scores of the stages are added row by row; those
        # that are not finite are left out in the end. A check there would wait for a GPU.
        if self.training and clipped:
            _check_finite(torch.cat(boxes))
            rows = rows_of_masks([of_image.nonempty() for of_image in clipped])
            clipped = [of_image[index] for of_image, index in zip(clipped, rows)]
        return [
            Instances(size, proposal_boxes=of_image) for of_image, size in zip(clipped, image_sizes)
        ]


def _check_finite(boxes: Tensor) -> None:
    """Say so if boxes (R, 4) are infinite or NaN; on a GPU a trainer learns of it at the end of
    the step."""
    check_later(
        (~boxes.isfinite()).sum(),
        lambda count: AssertionError(
            f"{count} coordinates of predicted boxes are infinite or NaN: training has diverged. "
            "Lower the learning rate or clip gradients (SOLVER.CLIP_GRADIENTS)."
        ),
    )
