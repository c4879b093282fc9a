"""Features of a fixed size for each box, taken from the pyramid level that fits the box."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detectron2.layers import ROIAlign, ROIAlignRotated, cat
from detectron2.modeling.sampling import rows_of_masks
from detectron2.ops import multilevel_roi_align, roi_pool
from detectron2.structures import Boxes, RotatedBoxes

__all__ = ["ROIPooler"]

BoxLists = Sequence[Boxes] | Sequence[RotatedBoxes]


def assign_boxes_to_levels(
    box_lists: BoxLists,
    min_level: int,
    max_level: int,
    canonical_box_size: int,
    canonical_level: int,
) -> Tensor:
    """Level of the pyramid for every box: FPN paper, equation (1).

    Args:
        box_lists: boxes of N images, K in all.
        min_level, max_level: first and last level, as powers of two of the stride; a box that
            is too small or too large takes the nearest one.
        canonical_box_size: side in pixels of the (square) box that belongs to
            `canonical_level`, the size of an ImageNet image.

    Returns:
        (K,) int64, 0 for `min_level`.
    """
    areas = cat([boxes.area() for boxes in box_lists])
    # The epsilon keeps a box without area finite, and it then falls on the lowest level.
    octave = torch.log2(torch.sqrt(areas) / canonical_box_size + 1e-8)
    level = torch.floor(canonical_level + octave)
    return level.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: BoxLists) -> Tensor:
    """Boxes of N images as one tensor whose first column says which image.

    Returns:
        (K, 5) rows of (image index, x0, y0, x1, y1), or (K, 6) rows of
        (image index, x_center, y_center, width, height, angle) for rotated boxes; dtype of
        the boxes.
    """
    boxes = cat([b.tensor for b in box_lists])
    indices = [torch.full_like(b.tensor[:, :1], i) for i, b in enumerate(box_lists)]
    return torch.cat([cat(indices), boxes], dim=1)


class _ROIPool(nn.Module):
    """Maximum over the map pixels of each bin, as in the Fast R-CNN paper."""

    def __init__(self, output_size: tuple[int, int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return roi_pool(features, rois, self.output_size, self.spatial_scale)


# half-pixel alignment of the two axis-aligned ROIAlign versions
_ALIGNED = {"ROIAlign": False, "ROIAlignV2": True}

_POOLERS: dict[str, Callable[[tuple[int, int], float, int], nn.Module]] = {
    "ROIAlign": lambda size, scale, ratio: ROIAlign(size, scale, ratio, aligned=False),
    "ROIAlignV2": lambda size, scale, ratio: ROIAlign(size, scale, ratio, aligned=True),
    "ROIAlignRotated": lambda size, scale, ratio: ROIAlignRotated(size, scale, ratio),
    "ROIPool": lambda size, scale, ratio: _ROIPool(size, scale),
}


class ROIPooler(nn.Module):
    """Region features from one feature map, or from a pyramid by the size of each region.

    Attributes:
        level_poolers: one single-map pooler for each feature map.
        min_level, max_level: levels of the first and last map, as powers of two of the stride.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        """
        Args:
            output_size: (h, w) of the result, or one number for both.
            scales: map pixels for one input pixel, 1 / stride, from fine to coarse; strides of
                a pyramid double from one map to the next.
            sampling_ratio: samples a side in each bin; 0 takes as many as the bin has pixels.
            pooler_type: ``ROIAlignV2`` (half-pixel aligned), ``ROIAlign`` (the first version,
                shifted by half a pixel), ``ROIPool`` or ``ROIAlignRotated``.
            canonical_box_size, canonical_level: see `assign_boxes_to_levels`.
        """
        super().__init__()
        self.output_size = _pair(output_size)
        self.scales = tuple(scales)
        self.sampling_ratio = sampling_ratio
        self.pooler_type = pooler_type
        self.canonical_level = canonical_level
        if canonical_box_size <= 0:
            raise ValueError(f"canonical_box_size is {canonical_box_size}; use a positive size.")
        self.canonical_box_size = canonical_box_size
        self.level_poolers = nn.ModuleList(
            _single_level_pooler(pooler_type, self.output_size, scale, sampling_ratio)
            for scale in self.scales
        )
        self.min_level, self.max_level = _level_range(self.scales)

    def forward(self, x: Sequence[Tensor], box_lists: BoxLists) -> Tensor:
        """
        Args:
            x: L feature maps, (N, C, H_l, W_l), in the order of `scales`.
            box_lists: boxes of the N images, in pixels of the network's input.

        Returns:
            (K, C, h, w): features of the K boxes of all images, image after image.
        """
        if len(x) != len(self.level_poolers):
            raise ValueError(
                f"ROIPooler was made for {len(self.level_poolers)} feature maps and got {len(x)}."
            )
        if not box_lists:
            return x[0].new_zeros((0, x[0].shape[1], *self.output_size))
        if len(box_lists) != x[0].shape[0]:
            raise ValueError(
                f"ROIPooler got boxes of {len(box_lists)} images and features of {x[0].shape[0]}."
            )
        rois = convert_boxes_to_pooler_format(box_lists)
        if len(x) == 1:
            return self.level_poolers[0](x[0], rois)
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        if self.pooler_type in _ALIGNED:
            return multilevel_roi_align(
                x,
                rois,
                levels,
                self.output_size,
                self.scales,
                self.sampling_ratio,
                _ALIGNED[self.pooler_type],
            )
        return self._pool_level_by_level(x, rois, levels)

    def _pool_level_by_level(self, x: Sequence[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        chosen = rows_of_masks([levels == level for level in range(len(x))])
        pooled = [
            pooler(features, rois[rows])
            for pooler, features, rows in zip(self.level_poolers, x, chosen)
        ]
        # Results come level after level; sorting the row numbers gives the way back.
        return torch.cat(pooled)[torch.cat(chosen).argsort()]


def _pair(output_size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(output_size, int):
        return (output_size, output_size)
    if len(output_size) != 2:
        raise ValueError(f"output_size is {output_size!r}; give one number or (height, width).")
    return (int(output_size[0]), int(output_size[1]))


def _level_range(scales: Sequence[float]) -> tuple[int, int]:
    """Levels of the first and last map, from scales that halve from map to map."""
    levels = [-math.log2(scale) for scale in scales]
    first, last = round(levels[0]), round(levels[-1])
    expected = list(range(first, last + 1))
    if len(levels) != len(expected) or any(
        not math.isclose(level, whole) for level, whole in zip(levels, expected)
    ):
        raise AssertionError(
            f"Scales {tuple(scales)} are no pyramid: each has to be a power of two and half of "
            "the one before it, such as (1/4, 1/8, 1/16)."
        )
    if first < 0:
        raise AssertionError(f"The first scale is {scales[0]}; a scale is at most 1.")
    return first, last


def _single_level_pooler(
    pooler_type: str, output_size: tuple[int, int], scale: float, sampling_ratio: int
) -> nn.Module:
    if pooler_type not in _POOLERS:
        raise ValueError(f"Unknown pooler type {pooler_type!r}; choose from {sorted(_POOLERS)}.")
    return _POOLERS[pooler_type](output_size, scale, sampling_ratio)
