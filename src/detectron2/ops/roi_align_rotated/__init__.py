"""ROIAlign of rotated boxes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair, check_features, check_rois
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.roi_align_rotated.reference import (
    roi_align_rotated_backward_reference,
    roi_align_rotated_reference,
)

__all__ = ["roi_align_rotated"]


def roi_align_rotated(
    input: Tensor,
    rois: Tensor,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
) -> Tensor:
    """Average bilinear samples in a regular grid of bins over each rotated box.

    From RRPN, https://arxiv.org/abs/1703.01086. Differentiable in `input`.

    Args:
        input: (N, C, H, W).
        rois: (K, 6) rows of (image index, center x, center y, width, height, angle): pixels of
            the image, and degrees counter-clockwise.
        output_size: (h, w) bins, or one number for both.
        spatial_scale: feature cells per image pixel.
        sampling_ratio: samples per bin and axis; 0 or less takes ``ceil(bin side in cells)``.

    Returns:
        (K, C, h, w), dtype and memory format of `input`. Cell centers lie at half-integers of
        the scaled frame. Empty boxes and samples outside of the map give zeros.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: a tensor does not hold floating point numbers.
    """
    height, width = as_pair(output_size, "output_size")
    check_features(input)
    check_rois(rois, input, 6)
    return dispatch.call(
        "roi_align_rotated",
        input,
        rois.detach(),
        height,
        width,
        float(spatial_scale),
        int(sampling_ratio),
    )


def fake_roi_align_rotated(
    input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    pooled = input.new_empty(rois.shape[0], input.shape[1], height, width)
    return pooled.contiguous(memory_format=format_of(is_channels_last(input)))


def fake_roi_align_rotated_backward(
    grad: Tensor,
    rois: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    channels_last: bool,
) -> Tensor:
    return grad.new_empty(input_shape).contiguous(memory_format=format_of(channels_last))


def save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, _, _, *ctx.arguments = inputs
    ctx.save_for_backward(rois)
    ctx.input_shape, ctx.channels_last = input.shape, is_channels_last(input)


def differentiate_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    gradient = torch.ops.detectron2.roi_align_rotated_backward(
        grad, rois, ctx.input_shape, *ctx.arguments, ctx.channels_last
    )
    return gradient, None, None, None, None, None


def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, *ctx.arguments, _ = inputs
    ctx.save_for_backward(rois)
    ctx.bins = grad.shape[2:]


def differentiate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The op is linear in `input`, so the gradient of its gradient is the op itself.
    (rois,) = ctx.saved_tensors
    pooled = torch.ops.detectron2.roi_align_rotated(grad, rois, *ctx.bins, *ctx.arguments)
    return pooled, None, None, None, None, None


dispatch.define(
    "roi_align_rotated(Tensor input, Tensor rois, SymInt height, SymInt width, "
    "float spatial_scale, int sampling_ratio) -> Tensor",
    reference=roi_align_rotated_reference,
    fake=fake_roi_align_rotated,
    numba="detectron2.ops.roi_align_rotated.cpu:roi_align_rotated",
    triton="detectron2.ops.roi_align_rotated.gpu:roi_align_rotated",
    backward=differentiate_forward,
    save=save_forward,
)
dispatch.define(
    "roi_align_rotated_backward(Tensor grad, Tensor rois, SymInt[] input_shape, "
    "float spatial_scale, int sampling_ratio, bool channels_last) -> Tensor",
    reference=roi_align_rotated_backward_reference,
    fake=fake_roi_align_rotated_backward,
    numba="detectron2.ops.roi_align_rotated.cpu:roi_align_rotated_backward",
    triton="detectron2.ops.roi_align_rotated.gpu:roi_align_rotated_backward",
    backward=differentiate_backward,
    save=save_backward,
)
