"""Two-stage detectors on one tensor of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detectron2.export.batched.model import (
    BatchedModel,
    first_of_each_image,
    flat_results,
    limits_of,
)
from detectron2.export.batched.points import masks_at_points
from detectron2.layers import batched_nms, batched_nms_rotated
from detectron2.modeling.poolers import _ALIGNED, ROIPooler, assign_boxes_to_levels
from detectron2.modeling.proposal_generator.proposal_utils import best_of_each_level
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads
from detectron2.ops import multilevel_roi_align
from detectron2.projects.point_rend._point_masks import PointMaskHead
from detectron2.structures import Boxes, RotatedBoxes

__all__ = ["BatchedPanopticFPN", "BatchedProposals", "BatchedRCNN", "Steps"]

Features = dict[str, Tensor]


class Batch(NamedTuple):
    """What every stage needs to know of the images."""

    features: Features
    image_sizes: Tensor  # (N, 2)
    num_images: Any


class Proposals(NamedTuple):
    """K boxes of all images, image after image."""

    boxes: Tensor  # (K, B)
    logits: Tensor  # (K,)
    images: Tensor  # (K,) int64


class Steps(NamedTuple):
    """What rows of boxes go through, for `BatchedRCNN`: `propose`, `pool` and `detect`."""

    propose: Callable[..., Proposals]
    pool: Callable[..., Tensor]
    detect: Callable[..., tuple[Any, Tensor]]


class BatchedRCNN(BatchedModel):
    """`GeneralizedRCNN`."""

    @property
    def steps(self) -> Steps:
        return Steps(propose, pool, detect)

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        heads = model.roi_heads
        names = ["pred_boxes", "pred_classes"]
        if getattr(heads, "keypoint_on", False):
            names += ["pred_keypoint_heatmaps", "pred_keypoints"]
        if heads.mask_on:
            names += ["pred_masks"]
        self.output_names = (*names, "scores", "image_index")

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        batch = self.batch_of(images, image_sizes)
        return self.detections(batch)

    def batch_of(self, images: Tensor, image_sizes: Tensor) -> Batch:
        features = self.model.backbone(self.prepared(images, image_sizes))
        return Batch(features, image_sizes, images.shape[0])

    def detections(self, batch: Batch) -> tuple[Tensor, ...]:
        heads = self.model.roi_heads
        proposals = self.steps.propose(self.model.proposal_generator, batch)
        detections = _res5_detections if isinstance(heads, Res5ROIHeads) else _standard_detections
        found, images = detections(heads, batch, proposals, self.steps)
        fields = {
            name: getattr(value, "tensor", value) for name, value in found.get_fields().items()
        }
        outputs = self.named_outputs(batch, {**fields, "image_index": images})
        return tuple(outputs[name] for name in self.output_names)

    def named_outputs(self, batch: Batch, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name, out of the (K, ...) fields of all detections."""
        return fields


class WithSemanticScores(BatchedRCNN):
    """What `PanopticFPN` has beside detections: the semantic scores of the padded images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.output_names = (*self.output_names, "sem_seg")

    def named_outputs(self, batch: Batch, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        scores, _ = self.model.sem_seg_head(batch.features, None)
        return {**super().named_outputs(batch, fields), "sem_seg": scores}


class BatchedPanopticFPN(WithSemanticScores):
    """`PanopticFPN`."""


class BatchedProposals(BatchedModel):
    """`ProposalNetwork`."""

    output_names = ("objectness_logits", "proposal_boxes", "image_index")

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        features = self.model.backbone(self.prepared(images, image_sizes))
        batch = Batch(features, image_sizes, images.shape[0])
        boxes, logits, rows = propose(self.model.proposal_generator, batch)
        return logits, boxes, rows


def propose(rpn: Any, batch: Batch) -> Proposals:
    """`RPN.forward` of a model that does not train."""
    from detectron2.export.tracing import keep_best_anchors

    maps = [batch.features[name] for name in rpn.in_features]
    anchors = rpn.anchor_generator(maps)
    box_dim = rpn.anchor_generator.box_dim
    level_logits, level_deltas = rpn.rpn_head(maps)
    level_logits = [x.permute(0, 2, 3, 1).flatten(1) for x in level_logits]
    level_deltas = [
        x.unflatten(1, (-1, box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in level_deltas
    ]
    topk = rpn.pre_nms_topk[False]
    anchors, level_logits, level_deltas = keep_best_anchors(
        anchors, level_logits, level_deltas, topk
    )
    decoded = rpn._decode_proposals(anchors, level_deltas)
    boxes, logits, groups = best_of_each_level(decoded, level_logits, topk)
    usable = boxes.isfinite().all(dim=-1) & logits.isfinite()  # (N, K)
    images = torch.arange(batch.num_images, device=boxes.device)[:, None].expand_as(logits)
    boxes, images, logits, groups = (
        boxes.flatten(0, 1),
        images.flatten(),
        logits.flatten(),
        groups.flatten(),
    )
    boxes = clip_rows(boxes, batch.image_sizes, images)
    sides = boxes[:, 2:4] if box_dim == 5 else boxes[:, 2:] - boxes[:, :2]
    usable = usable.flatten() & (sides > rpn.min_box_size).all(dim=1)
    rows = usable.nonzero()[:, 0]
    boxes, images, logits, groups = boxes[rows], images[rows], logits[rows], groups[rows]
    nms = batched_nms_rotated if box_dim == 5 else batched_nms
    kept = nms(boxes, logits, groups, rpn.nms_thresh)
    kept = kept[first_of_each_image(images[kept], rpn.post_nms_topk[False], batch.num_images)]
    return Proposals(boxes[kept], logits[kept], images[kept])


def clip_rows(boxes: Tensor, image_sizes: Tensor, images: Tensor) -> Tensor:
    """(K, B) boxes inside of the images that they belong to."""
    if boxes.shape[1] == 5:
        rotated = RotatedBoxes(boxes)
        rotated.clip(tuple(image_sizes[images].to(boxes.dtype).unbind(1)))
        return rotated.tensor
    return torch.minimum(boxes.clamp(min=0), limits_of(image_sizes, images, boxes))


def pool(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
    """`ROIPooler.forward` of rows that say themselves which image they belong to."""
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)
    if len(maps) == 1:
        return pooler.level_poolers[0](maps[0], rois)
    levels = assign_boxes_to_levels(
        [_wrapped(boxes)],
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )
    if pooler.pooler_type in _ALIGNED:
        return multilevel_roi_align(
            maps,
            rois,
            levels,
            pooler.output_size,
            pooler.scales,
            pooler.sampling_ratio,
            _ALIGNED[pooler.pooler_type],
        )
    return pooler._pool_level_by_level(maps, rois, levels)


def _wrapped(boxes: Tensor) -> Boxes:
    return RotatedBoxes(boxes) if boxes.shape[1] == 5 else Boxes(boxes)


def _standard_detections(
    heads: Any, batch: Batch, proposals: Proposals, steps: Steps
) -> tuple[Any, Tensor]:
    """`StandardROIHeads.forward`, `CascadeROIHeads.forward`, `RROIHeads.forward`."""
    maps = [batch.features[name] for name in heads.box_in_features]
    cascade = isinstance(heads, CascadeROIHeads)
    box_heads = list(heads.box_head) if cascade else [heads.box_head]
    predictors = list(heads.box_predictor) if cascade else [heads.box_predictor]
    boxes, scores = proposals.boxes, []
    for stage, (box_head, predictor) in enumerate(zip(box_heads, predictors)):
        if stage > 0:
            boxes = clip_rows(boxes, batch.image_sizes, proposals.images)
        regions = steps.pool(heads.box_pooler, maps, boxes, proposals.images)
        predictions = predictor(box_head(regions))
        rows = [flat_results(proposal_boxes=_wrapped(boxes))]
        scores.append(predictor.predict_probs(predictions, rows)[0])
        boxes = predictor.predict_boxes(predictions, rows)[0]
    mean = torch.stack(scores).mean(dim=0) if cascade else scores[0]
    found, images = steps.detect(predictors[-1], boxes, mean, proposals, batch)
    for on, names, pooler, head in (
        (heads.mask_on, "mask_in_features", "mask_pooler", "mask_head"),
        (heads.keypoint_on, "keypoint_in_features", "keypoint_pooler", "keypoint_head"),
    ):
        if on and isinstance(getattr(heads, head), PointMaskHead):
            found = masks_at_points(getattr(heads, head), batch.features, found, images)
        elif on:
            head_maps = [batch.features[name] for name in getattr(heads, names)]
            boxes = found.pred_boxes.tensor
            regions = steps.pool(getattr(heads, pooler), head_maps, boxes, images)
            (found,) = getattr(heads, head)(regions, [found])
    return found, images


def _res5_detections(
    heads: Any, batch: Batch, proposals: Proposals, steps: Steps
) -> tuple[Any, Tensor]:
    """`Res5ROIHeads.forward`."""
    maps = [batch.features[name] for name in heads.in_features]
    regions = heads.res5(steps.pool(heads.pooler, maps, proposals.boxes, proposals.images))
    predictor = heads.box_predictor
    predictions = predictor(regions.mean(dim=[2, 3]))
    rows = [flat_results(proposal_boxes=_wrapped(proposals.boxes))]
    boxes = predictor.predict_boxes(predictions, rows)[0]
    scores = predictor.predict_probs(predictions, rows)[0]
    found, images = steps.detect(predictor, boxes, scores, proposals, batch)
    if heads.mask_on:
        regions = heads.res5(steps.pool(heads.pooler, maps, found.pred_boxes.tensor, images))
        (found,) = heads.mask_head(regions, [found])
    return found, images


def detect(
    predictor: Any, boxes: Tensor, scores: Tensor, proposals: Proposals, batch: Batch
) -> tuple[Any, Tensor]:
    """`fast_rcnn_inference` of rows that say themselves which image they belong to.

    Args:
        predictor: with the thresholds.
        boxes: (R, K * B) or (R, B).
        scores: (R, K + 1), background last.
        proposals: the R proposals that these are of.
    """
    box_dim = len(predictor.box2box_transform.weights)
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    confident = (scores[:, :-1] > predictor.test_score_thresh) & finite[:, None]
    rows, classes = confident.nonzero().unbind(1)
    # No -1 among the sides: a graph could not tell what it stands for when there are no rows.
    per_class = boxes.reshape(boxes.shape[0], int(boxes.shape[1]) // box_dim, box_dim)
    columns = classes if per_class.shape[1] > 1 else torch.zeros_like(classes)
    found_boxes, found_scores, images = (
        per_class[rows, columns],
        scores[rows, classes],
        proposals.images[rows],
    )
    clipped = clip_rows(found_boxes, batch.image_sizes, images)
    nms = batched_nms_rotated if box_dim == 5 else batched_nms
    groups = images * predictor.num_classes + classes
    kept = nms(clipped, found_scores, groups, predictor.test_nms_thresh)
    limit = predictor.test_topk_per_image
    kept = kept[first_of_each_image(images[kept], limit, batch.num_images)]
    found = flat_results(
        pred_boxes=_wrapped(clipped[kept]), scores=found_scores[kept], pred_classes=classes[kept]
    )
    return found, images[kept]
