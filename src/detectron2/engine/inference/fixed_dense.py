"""One-stage detection in tensors of fixed shape: the host waits once for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.engine.inference.fixed_shapes import (
    FixedShapes,
    is_untouched,
    read_counts,
)
from detectron2.modeling.meta_arch.dense_detector import best_of_level
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.ops import nms_topk
from detectron2.structures import Boxes, ImageList, Instances

__all__ = ["FixedShapeFCOS", "FixedShapeRetinaNet", "find_dense_detections"]


def find_dense_detections(
    model: Any,
    anchors: Sequence[Boxes],
    scores: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
) -> list[Instances]:
    """`inference_single_image` of all images at once.

    Args:
        model: with thresholds and limits of a dense detector.
        anchors: per level.
        scores: per level, (N, R_l, K).
        deltas: per level, (N, R_l, 4).
        image_sizes: (height, width) of each image.
    """
    levels = []
    for boxes, level_scores, level_deltas in zip(anchors, scores, deltas, strict=True):
        # A NaN is above nothing, but would be the largest.
        confident = level_scores > model.test_score_thresh
        masked = level_scores.masked_fill(~confident, -torch.inf)
        levels.append(
            best_of_level(
                model.box2box_transform,
                boxes.tensor,
                masked,
                level_deltas,
                model.test_topk_candidates,
            )
        )
    found, best, classes = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    usable = found.isfinite().all(dim=2) & best.isfinite()
    places = min(model.max_detections_per_image, best.shape[1])
    kept, counts = nms_topk(found, best, classes, usable, model.test_nms_thresh, places)
    fields = {
        "pred_boxes": found.gather(1, kept[..., None].expand(-1, -1, 4)),
        "scores": best.gather(1, kept),
        "pred_classes": classes.gather(1, kept),
    }
    return read_counts(fields, counts, image_sizes)


class _FixedShapeDense(FixedShapes):
    """What `FixedShapeRetinaNet` and `FixedShapeFCOS` share."""

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        with self.trunk_in_use():
            return super().forward(batched_inputs)  # type: ignore[misc]

    def _predict(self, images: ImageList) -> tuple[list[Tensor], Any]:
        model: Any = self

        def trunk(batch: Tensor) -> tuple[list[Tensor], Any]:
            features = model.backbone(batch)
            maps = [features[name] for name in model.head_in_features]
            return maps, model.head(maps)

        return self.run_trunk(trunk, images.tensor, (model.backbone, model.head))

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: Any
    ) -> list[Instances]:
        model: Any = self
        if not self.runs_in_fixed_shapes():
            return super().forward_inference(  # type: ignore[misc]
                images, features, predictions
            )
        scores, deltas = model._scores_and_deltas(predictions)
        anchors = model.anchor_generator(features)
        return find_dense_detections(model, anchors, scores, deltas, images.image_sizes)

    def is_known(self) -> bool:
        model: Any = self
        return (
            is_untouched(model)
            and model.max_detections_per_image >= 0
            and model.test_topk_candidates > 0
            and getattr(model.anchor_generator, "box_dim", 4) == 4
        )


class FixedShapeRetinaNet(_FixedShapeDense, RetinaNet):
    """A `RetinaNet` that waits for the device once, and whose trunk may run from a recording."""


class FixedShapeFCOS(_FixedShapeDense, FCOS):
    """An `FCOS` that waits for the device once, and whose trunk may run from a recording."""
