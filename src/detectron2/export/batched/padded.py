"""Forms of models whose outputs have a fixed number of rows, of which the first ones count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detectron2.export.batched._padded_steps import (
    NO_SCORE,
    best_detections,
    keep_in_order,
    pool_by_weights,
    rows_of,
)
from detectron2.export.batched.dense import BatchedFCOS, BatchedRetinaNet
from detectron2.export.batched.model import BatchedModel, flat_results
from detectron2.export.batched.rcnn import Batch, BatchedRCNN, Proposals, Steps, WithSemanticScores
from detectron2.modeling.meta_arch.dense_detector import best_of_level
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

__all__ = ["PaddedFCOS", "PaddedPanopticFPN", "PaddedProposals", "PaddedRCNN", "PaddedRetinaNet"]


def counted(scores: Tensor, **fields: Tensor) -> dict[str, Tensor]:
    """Outputs of detectors, with zeros in the rows that do not count.

    Args:
        scores: (N, K), `NO_SCORE` where a row does not count.
        fields: (N, K, ...) each.
    """
    counts = scores > NO_SCORE / 2
    outputs = {"num_detections": counts.to(torch.int64).sum(dim=1)}
    for name, value in {**fields, "scores": scores}.items():
        mask = counts.view(*counts.shape, *[1] * (value.dim() - 2))
        outputs[name] = torch.where(mask, value, torch.zeros_like(value))
    return outputs


class PaddedRCNN(BatchedRCNN):
    """`GeneralizedRCNN`; K detections of each of N images, `num_detections` (N,) of them count."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        hidden = ("image_index", "pred_keypoints")  # keypoints are found in the heatmaps later
        names = [name for name in self.output_names if name not in hidden]
        self.output_names = (*names, "num_detections")

    @property
    def steps(self) -> Steps:
        return Steps(propose, pool, detect)

    def named_outputs(self, batch: Batch, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = {
            name: value.unflatten(0, (batch.num_images, -1))
            for name, value in fields.items()
            if name in self.output_names
        }
        return counted(rows.pop("scores"), **rows)


class PaddedPanopticFPN(WithSemanticScores, PaddedRCNN):
    """`PanopticFPN`."""


class PaddedProposals(BatchedModel):
    """`ProposalNetwork`."""

    output_names = ("objectness_logits", "proposal_boxes", "num_detections")

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        features = self.model.backbone(self.prepared(images, image_sizes))
        batch = Batch(features, image_sizes, images.shape[0])
        proposals = propose(self.model.proposal_generator, batch)
        outputs = counted(
            proposals.logits.unflatten(0, (batch.num_images, -1)),
            proposal_boxes=proposals.boxes.unflatten(0, (batch.num_images, -1)),
        )
        outputs["objectness_logits"] = outputs.pop("scores")
        return tuple(outputs[name] for name in self.output_names)


class PaddedRetinaNet(BatchedRetinaNet):
    """`RetinaNet`."""

    output_names = ("pred_boxes", "pred_classes", "scores", "num_detections")

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        model: Any = self.model
        levels = [self.padded_candidates(*level) for level in self.levels(images, image_sizes)]
        boxes, scores, classes = best_detections(
            *(torch.cat(parts, dim=1) for parts in zip(*levels)),
            model.test_nms_thresh,
            model.max_detections_per_image,
        )
        outputs = counted(scores, pred_boxes=boxes, pred_classes=classes)
        return tuple(outputs[name] for name in self.output_names)

    def padded_candidates(
        self, anchors: Tensor, scores: Tensor, deltas: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D, 4) boxes, (N, D) scores and classes of a level; see `candidates`."""
        model: Any = self.model
        boxes, best, classes = best_of_level(
            model.box2box_transform, anchors, scores, deltas, model.test_topk_candidates
        )
        best = masked(best, (best > model.test_score_thresh) & finite(boxes))
        return boxes, best, classes


class PaddedFCOS(PaddedRetinaNet, BatchedFCOS):
    """`FCOS`."""


def finite(boxes: Tensor) -> Tensor:
    """(...) of (..., B): whether no number of a box is infinite or NaN."""
    return (boxes.abs() < torch.finfo(boxes.dtype).max).all(dim=-1)


def masked(scores: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts, scores, torch.full_like(scores, NO_SCORE))


def propose(rpn: Any, batch: Batch) -> Proposals:
    """`RPN.forward` of a model that does not train; as many proposals of every image."""
    maps = [batch.features[name] for name in rpn.in_features]
    level_logits, level_deltas = rpn.rpn_head(maps)
    levels = []
    for anchors, logits, deltas in zip(rpn.anchor_generator(maps), level_logits, level_deltas):
        logits = logits.permute(0, 2, 3, 1).flatten(1)  # (N, R)
        deltas = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        levels.append(_best_of_level(rpn, anchors.tensor, logits, deltas, batch.image_sizes))
    boxes, logits = (torch.cat(parts, dim=1) for parts in zip(*levels))
    count = min(rpn.post_nms_topk[False], logits.shape[1])
    logits, order = logits.topk(count, dim=1)
    images = torch.arange(batch.num_images, device=boxes.device).repeat_interleave(count)
    return Proposals(rows_of(boxes, order).flatten(0, 1), logits.flatten(), images)


def _best_of_level(
    rpn: Any, anchors: Tensor, logits: Tensor, deltas: Tensor, image_sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """(N, k, 4) boxes and (N, k) logits of a level after suppression."""
    logits, order = logits.topk(min(rpn.pre_nms_topk[False], logits.shape[1]), dim=1)
    deltas = rows_of(deltas, order)
    (boxes,) = rpn._decode_proposals([Boxes(anchors[order.flatten()])], [deltas])
    usable = finite(boxes) & (logits.abs() < -NO_SCORE)
    limits = image_sizes.to(boxes.dtype).flip(1).repeat(1, 2)[:, None]  # (N, 1, 4)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    usable &= (boxes[..., 2:] - boxes[..., :2] > rpn.min_box_size).all(dim=2)
    keep = keep_in_order(boxes, torch.zeros_like(order), usable, rpn.nms_thresh)
    return boxes, masked(logits, keep)


def pool(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
    """`rcnn.pool`, of as many boxes of every image."""
    return pool_by_weights(pooler, maps, boxes.unflatten(0, (maps[0].shape[0], -1)))


def detect(
    predictor: Any, boxes: Tensor, scores: Tensor, proposals: Proposals, batch: Batch
) -> tuple[Any, Tensor]:
    """`rcnn.detect`, of as many detections of every image."""
    num_classes = scores.shape[1] - 1
    per_class = boxes.unflatten(1, (-1, 4)).expand(-1, num_classes, -1)
    limits = batch.image_sizes[proposals.images].to(boxes.dtype).flip(1).repeat(1, 2)
    clipped = torch.minimum(per_class.clamp(min=0), limits[:, None])  # (R, C, 4)
    usable = finite(boxes) & (scores.abs() < torch.finfo(scores.dtype).max).all(dim=1)
    usable &= proposals.logits > NO_SCORE / 2
    counts = (scores[:, :-1] > predictor.test_score_thresh) & usable[:, None]
    table = masked(scores[:, :-1], counts).unflatten(0, (batch.num_images, -1)).flatten(1)
    classes = torch.arange(num_classes, device=boxes.device).repeat(table.shape[1] // num_classes)
    best, found_scores, found_classes = best_detections(
        clipped.unflatten(0, (batch.num_images, -1)).flatten(1, 2),
        table,
        classes.expand_as(table),
        predictor.test_nms_thresh,
        predictor.test_topk_per_image,
    )
    found = flat_results(
        pred_boxes=Boxes(best.flatten(0, 1)),
        scores=found_scores.flatten(),
        pred_classes=found_classes.flatten(),
    )
    images = torch.arange(batch.num_images, device=boxes.device)
    return found, images.repeat_interleave(best.shape[1])
