"""Ops of this library as operations of PyTorch that a traced file holds and runs well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.export._nms import batched_nms_in_blocks, nms_in_blocks
from detectron2.ops.roi_align.reference import roi_align_reference

__all__ = ["ATEN_OPS", "KERNELS", "level_by_level"]


def level_by_level(roi_align: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`detectron2.ops.multilevel_roi_align` from a function for one level.

    The reference writes into a part of its output, which converters do not know.
    """

    def multilevel_roi_align(
        features: Sequence[Tensor],
        rois: Tensor,
        levels: Tensor,
        height: int,
        width: int,
        spatial_scales: Sequence[float],
        sampling_ratio: int,
        aligned: bool,
    ) -> Tensor:
        members = [(levels == level).nonzero()[:, 0] for level in range(len(features))]
        pooled = [
            roi_align(feature, rois[rows], height, width, scale, sampling_ratio, aligned)
            for feature, rows, scale in zip(features, members, spatial_scales)
        ]
        return torch.cat(pooled)[torch.cat(members).sort().indices]

    return multilevel_roi_align


def _kernel(name: str) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        return getattr(torch.ops.detectron2, name)(*args)

    return run


# The ops themselves, for what has to be computed while something else is recorded.
KERNELS: dict[str, Callable[..., Any]] = {
    name: _kernel(name) for name in ("nms", "batched_nms", "roi_align", "multilevel_roi_align")
}

ATEN_OPS: dict[str, Callable[..., Any]] = {
    "nms": nms_in_blocks,
    "batched_nms": batched_nms_in_blocks,
    "multilevel_roi_align": level_by_level(roi_align_reference),
}
