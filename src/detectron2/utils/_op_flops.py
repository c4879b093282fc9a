"""Multiply-adds of this library's own ops, read off the shapes in a traced graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from detectron2.layers._fvcore_nn import get_shape

# A bilinear sample is a weighted sum of four cells.
_CELLS_PER_SAMPLE = 4
# An adaptive grid depends on the values of the boxes, which a graph does not have. It takes one
# sample per cell and axis, and a box is on the level where its bins span about two cells.
_ADAPTIVE_RATIO = 2


def _argument(output: Any, name: str) -> Any:
    """Graph value of the argument `name` of the op that computed `output`."""
    node = output.node()
    arguments = torch._C.parse_schema(node.schema()).arguments
    position = [argument.name for argument in arguments].index(name)
    return list(node.inputs())[position]


def _pooling(inputs: list[Any], outputs: list[Any]) -> int:
    ratio = _argument(outputs[0], "sampling_ratio").toIValue()
    ratio = ratio if ratio > 0 else _ADAPTIVE_RATIO
    return math.prod(get_shape(outputs[0])) * ratio**2 * _CELLS_PER_SAMPLE


def _deformable_convolution(inputs: list[Any], outputs: list[Any]) -> int:
    _, in_channels_per_group, kernel_height, kernel_width = get_shape(
        _argument(outputs[0], "weight")
    )
    images, in_channels = get_shape(_argument(outputs[0], "input"))[:2]
    out_height, out_width = get_shape(outputs[0])[2:]
    taps = kernel_height * kernel_width
    samples = images * in_channels * taps * out_height * out_width
    convolution = math.prod(get_shape(outputs[0])) * in_channels_per_group * taps
    return convolution + samples * _CELLS_PER_SAMPLE


OP_FLOPS: dict[str, Callable[[list[Any], list[Any]], int] | None] = {
    "detectron2::roi_align": _pooling,
    "detectron2::multilevel_roi_align": _pooling,
    "detectron2::roi_align_rotated": _pooling,
    "detectron2::deform_conv": _deformable_convolution,
    # Comparisons, and work on a few numbers per box.
    "detectron2::nms": None,
    "detectron2::batched_nms": None,
    "detectron2::nms_rotated": None,
    "detectron2::batched_nms_rotated": None,
    "detectron2::box_iou": None,
    "detectron2::box_iou_rotated": None,
    "detectron2::paste_masks": None,
    "detectron2::rasterize_polygons": None,
    "detectron2::roi_pool": None,
    "torchvision::nms": None,
}
"""Handles for fvcore's analyses; None means that the op is not counted."""
