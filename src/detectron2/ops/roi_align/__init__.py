"""ROIAlign on one feature map, or on all levels of a pyramid in one call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair, check_features, check_rois, check_same_device
from detectron2.ops.roi_align.reference import multilevel_roi_align_reference, roi_align_reference

__all__ = ["multilevel_roi_align", "roi_align"]


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Average bilinear samples in a regular grid of bins over each box.

    From Mask R-CNN, https://arxiv.org/abs/1703.06870, section 3. Differentiable in `input`.

    Args:
        input: (N, C, H, W); channels-last memory is read directly.
        rois: (K, 5) rows of (image index, x0, y0, x1, y1), in pixels of the image; may be of
            another floating point type than `input`.
        output_size: (h, w) bins, or one number for both.
        spatial_scale: feature cells per image pixel.
        sampling_ratio: samples per bin and axis; 0 or less takes ``ceil(bin side in cells)``.
        aligned: cell centers lie at half-integers of the scaled frame, which is exact; False
            keeps the older frame with centers at integers and boxes of at least one cell.

    Returns:
        (K, C, h, w), dtype and memory format of `input`. Empty boxes, boxes outside of the
        map and boxes that are not finite give zeros.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: a tensor does not hold floating point numbers.
    """
    height, width = as_pair(output_size, "output_size")
    check_features(input)
    check_rois(rois, input, 5)
    return dispatch.call(
        "roi_align",
        input,
        rois.detach(),
        height,
        width,
        float(spatial_scale),
        int(sampling_ratio),
        bool(aligned),
    )


def multilevel_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: int | Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """:func:`roi_align` where every box reads its own level of a feature pyramid.

    Differentiable in every level.

    Args:
        features: L maps (N, C, Hl, Wl) of one dtype and device.
        rois: (K, 5) rows of (image index, x0, y0, x1, y1), in pixels of the image.
        levels: (K,) int64 index into `features`; a box of no level gives zeros.
        output_size: (h, w) bins, or one number for both.
        spatial_scales: L feature cells per image pixel.
        sampling_ratio: as in :func:`roi_align`.
        aligned: as in :func:`roi_align`.

    Returns:
        (K, C, h, w), dtype and memory format of `features[0]`.

    Raises:
        ValueError: wrong shapes, levels that differ in channels, or tensors on two devices.
        TypeError: a tensor does not hold numbers of the right kind.
    """
    height, width = as_pair(output_size, "output_size")
    features = list(features)
    check_levels(features, rois, levels, spatial_scales)
    return dispatch.call(
        "multilevel_roi_align",
        features,
        rois.detach(),
        levels,
        height,
        width,
        [float(scale) for scale in spatial_scales],
        int(sampling_ratio),
        bool(aligned),
    )


def check_levels(
    features: list[Tensor], rois: Tensor, levels: Tensor, spatial_scales: Sequence[float]
) -> None:
    if not features or len(features) != len(spatial_scales):
        raise ValueError(
            f"There are {len(features)} feature maps and {len(spatial_scales)} spatial scales; "
            "give at least one map and one scale for each."
        )
    for index, feature in enumerate(features):
        check_features(feature, f"features[{index}]")
        check_same_device(features[0], feature, "features[0]", f"features[{index}]")
        if feature.shape[:2] != features[0].shape[:2] or feature.dtype != features[0].dtype:
            raise ValueError(
                f"features[{index}] is {feature.dtype} of shape {tuple(feature.shape)} and "
                f"features[0] is {features[0].dtype} of shape {tuple(features[0].shape)}; levels "
                "must agree in images, channels and dtype."
            )
    check_rois(rois, features[0], 5)
    if levels.shape != rois.shape[:1] or levels.dtype != torch.int64:
        raise ValueError(
            f"levels is {levels.dtype} of shape {tuple(levels.shape)} for {rois.shape[0]} rois; "
            "expected one int64 level per roi."
        )
    check_same_device(rois, levels, "rois", "levels")


dispatch.register("roi_align", reference=roi_align_reference)
dispatch.register("multilevel_roi_align", reference=multilevel_roi_align_reference)
