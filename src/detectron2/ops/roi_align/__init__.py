"""ROIAlign on one feature map, or on all levels of a pyramid in one call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair, check_features, check_rois, check_same_device
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.roi_align.reference import (
    multilevel_roi_align_backward_reference,
    multilevel_roi_align_reference,
    roi_align_backward_reference,
    roi_align_reference,
)

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


# ---- torch.ops.detectron2.roi_align and its gradient


def fake_roi_align(
    input: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    pooled = input.new_empty(rois.shape[0], input.shape[1], height, width)
    return pooled.contiguous(memory_format=format_of(is_channels_last(input)))


def fake_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    channels_last: bool,
) -> Tensor:
    return grad.new_empty(input_shape).contiguous(memory_format=format_of(channels_last))


def save_roi_align(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, _, _, *ctx.arguments = inputs
    ctx.save_for_backward(rois)
    ctx.input_shape, ctx.channels_last = input.shape, is_channels_last(input)


def differentiate_roi_align(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    gradient = torch.ops.detectron2.roi_align_backward(
        grad, rois, ctx.input_shape, *ctx.arguments, ctx.channels_last
    )
    return gradient, None, None, None, None, None, None


def save_roi_align_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, *ctx.arguments, _ = inputs
    ctx.save_for_backward(rois)
    ctx.bins = grad.shape[2:]


def differentiate_roi_align_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The op is linear in `input`, so the gradient of its gradient is the op itself.
    (rois,) = ctx.saved_tensors
    pooled = torch.ops.detectron2.roi_align(grad, rois, *ctx.bins, *ctx.arguments)
    return pooled, None, None, None, None, None, None


dispatch.define(
    "roi_align(Tensor input, Tensor rois, SymInt height, SymInt width, float spatial_scale, "
    "int sampling_ratio, bool aligned) -> Tensor",
    reference=roi_align_reference,
    fake=fake_roi_align,
    numba="detectron2.ops.roi_align.cpu:roi_align",
    triton="detectron2.ops.roi_align.gpu:roi_align",
    backward=differentiate_roi_align,
    save=save_roi_align,
)
dispatch.define(
    "roi_align_backward(Tensor grad, Tensor rois, SymInt[] input_shape, float spatial_scale, "
    "int sampling_ratio, bool aligned, bool channels_last) -> Tensor",
    reference=roi_align_backward_reference,
    fake=fake_roi_align_backward,
    numba="detectron2.ops.roi_align.cpu:roi_align_backward",
    triton="detectron2.ops.roi_align.gpu:roi_align_backward",
    backward=differentiate_roi_align_backward,
    save=save_roi_align_backward,
)


# ---- torch.ops.detectron2.multilevel_roi_align and its gradient


def fake_multilevel_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    height: int,
    width: int,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return fake_roi_align(features[0], rois, height, width, 1.0, sampling_ratio, aligned)


def fake_multilevel_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    sizes: Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    channels_last: Sequence[bool],
) -> list[Tensor]:
    return [
        grad.new_empty(sizes[0], grad.shape[1], height, width).contiguous(
            memory_format=format_of(last)
        )
        for height, width, last in zip(sizes[1::2], sizes[2::2], channels_last)
    ]


def save_multilevel(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, levels, _, _, *ctx.arguments = inputs
    ctx.save_for_backward(rois, levels)
    ctx.sizes = [features[0].shape[0]]
    for feature in features:
        ctx.sizes.extend(feature.shape[2:])
    ctx.channels_last = [is_channels_last(feature) for feature in features]


def differentiate_multilevel(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    gradients = torch.ops.detectron2.multilevel_roi_align_backward(
        grad, *ctx.saved_tensors, ctx.sizes, *ctx.arguments, ctx.channels_last
    )
    return gradients, None, None, None, None, None, None, None


def save_multilevel_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, rois, levels, _, *ctx.arguments, _ = inputs
    ctx.save_for_backward(rois, levels)
    ctx.bins = grad.shape[2:]


def differentiate_multilevel_backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    pooled = torch.ops.detectron2.multilevel_roi_align(
        grads, *ctx.saved_tensors, *ctx.bins, *ctx.arguments
    )
    return pooled, None, None, None, None, None, None, None


dispatch.define(
    "multilevel_roi_align(Tensor[] features, Tensor rois, Tensor levels, SymInt height, "
    "SymInt width, float[] spatial_scales, int sampling_ratio, bool aligned) -> Tensor",
    reference=multilevel_roi_align_reference,
    fake=fake_multilevel_roi_align,
    numba="detectron2.ops.roi_align.cpu:multilevel_roi_align",
    triton="detectron2.ops.roi_align.gpu:multilevel_roi_align",
    backward=differentiate_multilevel,
    save=save_multilevel,
)
dispatch.define(
    "multilevel_roi_align_backward(Tensor grad, Tensor rois, Tensor levels, SymInt[] sizes, "
    "float[] spatial_scales, int sampling_ratio, bool aligned, bool[] channels_last) -> Tensor[]",
    reference=multilevel_roi_align_backward_reference,
    fake=fake_multilevel_roi_align_backward,
    numba="detectron2.ops.roi_align.cpu:multilevel_roi_align_backward",
    triton="detectron2.ops.roi_align.gpu:multilevel_roi_align_backward",
    backward=differentiate_multilevel_backward,
    save=save_multilevel_backward,
)
