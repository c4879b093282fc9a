"""Ops of this library as the standard ops of ONNX, for PyTorch's tracing exporter.

Each class computes its op while the model is traced, and says in `symbolic` which ONNX node
stands for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detectron2 import ops
from detectron2.export._aten_ops import KERNELS, level_by_level
from detectron2.ops import dispatch
from detectron2.ops.nms.reference import threshold_below

__all__ = ["ONNX_SUBSTITUTES"]

# Scores of boxes that do not belong to a group, and what every real score is above. Larger ones
# overflow the exporter's inference of shapes, which takes any small vector for a shape.
_NO_SCORE = -1.0e9
_LOWEST_SCORE = -0.9e9


class _NonMaxSuppression(torch.autograd.Function):
    """(K, 3) rows of 0, group and box from (1, D, 4) boxes and (1, G, D) scores."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        member = scores[0] > _LOWEST_SCORE  # (G, D)
        group = member.to(torch.int64).argmax(dim=0)
        with dispatch.use_implementation("auto"), dispatch.substitute(**KERNELS):
            kept = ops.batched_nms(boxes[0], scores[0].amax(dim=0), group, iou_threshold)
        kept = kept[member.any(dim=0)[kept]]
        return torch.stack([torch.zeros_like(kept), group[kept], kept], dim=1)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou_threshold: float) -> Any:
        def constant(value: Any, dtype: torch.dtype) -> Any:
            return g.op("Constant", value_t=torch.tensor([value], dtype=dtype))

        return g.op(
            "NonMaxSuppression",
            boxes,
            scores,
            constant(sys.maxsize, torch.int64),
            constant(iou_threshold, torch.float32),
            constant(_LOWEST_SCORE, torch.float32),
        )


class _RoiAlign(torch.autograd.Function):
    """(K, C, h, w) of (N, C, H, W) features, (K, 4) boxes and (K,) images."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        boxes: Tensor,
        images: Tensor,
        size: tuple[int, int],
        scale: float,
        sampling_ratio: int,
        aligned: bool,
    ) -> Tensor:
        rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)
        with dispatch.use_implementation("auto"), dispatch.substitute(**KERNELS):
            return ops.roi_align(features, rois, size, scale, sampling_ratio, aligned).contiguous()

    @staticmethod
    def symbolic(
        g: Any,
        features: Any,
        boxes: Any,
        images: Any,
        size: tuple[int, int],
        scale: float,
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        return g.op(
            "RoiAlign",
            features,
            boxes,
            images,
            coordinate_transformation_mode_s="half_pixel" if aligned else "output_half_pixel",
            mode_s="avg",
            output_height_i=size[0],
            output_width_i=size[1],
            sampling_ratio_i=max(sampling_ratio, 0),
            spatial_scale_f=scale,
        )


def _batched_nms(boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float) -> Tensor:
    # One more box, of no group and thus never chosen: not every runtime takes none at all.
    no_score = torch.full((1,), _NO_SCORE, dtype=torch.float32, device=boxes.device)
    boxes = torch.cat([boxes.float(), torch.zeros(1, 4, device=boxes.device)])
    scores = torch.cat([scores.float(), no_score])
    class_ids = torch.cat([class_ids, torch.zeros(1, dtype=torch.int64, device=boxes.device)])
    # One row of scores for each group: boxes of different groups never meet.
    numbers = torch.arange(class_ids.max() + 1, device=boxes.device)
    scores_of_group = torch.where(class_ids[None, :] == numbers[:, None], scores[None, :], no_score)
    threshold = threshold_below(iou_threshold, torch.float32)
    selected = _NonMaxSuppression.apply(boxes[None], scores_of_group[None], threshold)
    # Nodes sort ties by position, so after this equal scores keep their order.
    kept = selected[:, 2].sort().values
    return kept[scores[kept].sort(descending=True).indices]


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return _batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)


def _roi_align(
    input: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    images, boxes = rois[:, 0].to(torch.int64), rois[:, 1:]
    return _RoiAlign.apply(
        input, boxes, images, (height, width), spatial_scale, sampling_ratio, aligned
    )


ONNX_SUBSTITUTES: dict[str, Callable[..., Any]] = {
    "nms": _nms,
    "batched_nms": _batched_nms,
    "roi_align": _roi_align,
    "multilevel_roi_align": level_by_level(_roi_align),
}
