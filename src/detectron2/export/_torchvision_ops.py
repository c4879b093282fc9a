"""Ops of this library under the names of torchvision's, which converters of traces know."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detectron2.export._aten_ops import KERNELS, level_by_level

__all__ = ["torchvision_ops"]


@functools.cache
def _define() -> Any:
    """Make sure that ``torch.ops.torchvision`` has `nms` and `roi_align`.

    torchvision's own if it is installed; otherwise ours under its names and with its schemas,
    for as long as the process lives.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("torchvision.ops")
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, "
        "SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor"
    )
    library.impl("nms", KERNELS["nms"], "CompositeExplicitAutograd")
    library.impl("roi_align", _run_roi_align, "CompositeExplicitAutograd")
    return library


def _run_roi_align(
    input: Tensor, rois: Tensor, scale: float, height: int, width: int, ratio: int, aligned: bool
) -> Tensor:
    return KERNELS["roi_align"](input, rois, height, width, scale, ratio, aligned).contiguous()


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return torch.ops.torchvision.nms(boxes, scores, iou_threshold)


def _batched_nms(boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float) -> Tensor:
    # Every class in a place of its own, far from the others.
    extent = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
    return _nms(boxes + (class_ids.to(boxes.dtype) * extent)[:, None], scores, iou_threshold)


def _roi_align(
    input: Tensor, rois: Tensor, height: int, width: int, scale: float, ratio: int, aligned: bool
) -> Tensor:
    return torch.ops.torchvision.roi_align(input, rois, scale, height, width, ratio, aligned)


def torchvision_ops() -> dict[str, Callable[..., Any]]:
    """For `detectron2.ops.dispatch.substitute`."""
    _define()
    return {
        "nms": _nms,
        "batched_nms": _batched_nms,
        "roi_align": _roi_align,
        "multilevel_roi_align": level_by_level(_roi_align),
    }
