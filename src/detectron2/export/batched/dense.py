"""One-stage detectors and semantic segmentation on one tensor of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detectron2.export.batched.model import BatchedModel, first_of_each_image
from detectron2.layers import batched_nms

__all__ = ["BatchedFCOS", "BatchedRetinaNet", "BatchedSemanticSegmentor"]


class BatchedRetinaNet(BatchedModel):
    """`RetinaNet`."""

    output_names = ("pred_boxes", "pred_classes", "scores", "image_index")

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        model: Any = self.model
        levels = [
            self.candidates(*level, images.shape[0]) for level in self.levels(images, image_sizes)
        ]
        boxes, found_scores, classes, rows = (torch.cat(parts) for parts in zip(*levels))
        finite = (boxes.isfinite().all(dim=1) & found_scores.isfinite()).nonzero()[:, 0]
        boxes, found_scores = boxes[finite], found_scores[finite]
        classes, rows = classes[finite], rows[finite]
        groups = rows * model.num_classes + classes
        kept = batched_nms(boxes, found_scores, groups, model.test_nms_thresh)
        kept = kept[
            first_of_each_image(rows[kept], model.max_detections_per_image, images.shape[0])
        ]
        return boxes[kept], classes[kept], found_scores[kept], rows[kept]

    def levels(self, images: Tensor, image_sizes: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per level, (R_l, 4) anchors, (N, R_l, K) scores and (N, R_l, 4) deltas."""
        model: Any = self.model
        features = model.backbone(self.prepared(images, image_sizes))
        maps = [features[name] for name in model.head_in_features]
        scores, deltas = model._scores_and_deltas(model.head(maps))
        anchors = [level.tensor for level in model.anchor_generator(maps)]
        return list(zip(anchors, scores, deltas, strict=True))

    def candidates(
        self, anchors: Tensor, scores: Tensor, deltas: Tensor, num_images: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`DenseDetector._decode_per_level_predictions` of all images: (D, 4) boxes, (D,) scores,
        classes and images.

        Args:
            anchors: (R, 4).
            scores: (N, R, K).
            deltas: (N, R, 4).
        """
        model: Any = self.model
        images, rows, classes = (scores > model.test_score_thresh).nonzero().unbind(1)
        confident, order = scores[images, rows, classes].sort(descending=True)
        best = first_of_each_image(images[order], model.test_topk_candidates, num_images)
        order, confident = order[best], confident[best]
        images, rows, classes = images[order], rows[order], classes[order]
        boxes = model.box2box_transform.apply_deltas(deltas[images, rows], anchors[rows])
        return boxes, confident, classes, images


class BatchedFCOS(BatchedRetinaNet):
    """`FCOS`."""


class BatchedSemanticSegmentor(BatchedModel):
    """`SemanticSegmentor`: (N, C, H', W') scores of the padded images."""

    output_names = ("sem_seg",)

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        model: Any = self.model
        features = model.backbone(self.prepared(images, image_sizes))
        scores, _ = model.sem_seg_head(features, None)
        return (scores,)
