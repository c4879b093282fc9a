"""ROI max pooling."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair, check_features, check_rois
from detectron2.ops.formats import format_of, is_channels_last
from detectron2.ops.roi_pool.reference import roi_pool_backward_reference, roi_pool_reference

__all__ = ["roi_pool"]


def roi_pool(
    input: Tensor, rois: Tensor, output_size: int | Sequence[int], spatial_scale: float = 1.0
) -> Tensor:
    """Largest cell in each bin of each box, boxes and bins rounded to whole cells.

    From Fast R-CNN, https://arxiv.org/abs/1504.08083, section 2.1. Differentiable in `input`:
    the gradient goes to the largest cell, the first one if several are equal.

    Args:
        input: (N, C, H, W).
        rois: (K, 5) rows of (image index, x0, y0, x1, y1), in pixels of the image.
        output_size: (h, w) bins, or one number for both.
        spatial_scale: feature cells per image pixel.

    Returns:
        (K, C, h, w), dtype and memory format of `input`. Bins outside of the map give zeros.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: a tensor does not hold floating point numbers.
    """
    height, width = as_pair(output_size, "output_size")
    check_features(input)
    check_rois(rois, input, 5)
    return dispatch.call("roi_pool", input, rois.detach(), height, width, float(spatial_scale))


def fake_roi_pool(
    input: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float
) -> Tensor:
    pooled = input.new_empty(rois.shape[0], input.shape[1], height, width)
    return pooled.contiguous(memory_format=format_of(is_channels_last(input)))


def fake_roi_pool_backward(
    grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float
) -> Tensor:
    gradient = grad.new_empty(input.shape)
    return gradient.contiguous(memory_format=format_of(is_channels_last(input)))


def save_roi_pool(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, _, _, ctx.spatial_scale = inputs
    ctx.save_for_backward(input, rois)


def differentiate_roi_pool(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The winners are searched again: cheaper than keeping an index per output value.
    gradient = torch.ops.detectron2.roi_pool_backward(grad, *ctx.saved_tensors, ctx.spatial_scale)
    return gradient, None, None, None, None


def refuse_second_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError("roi_pool has no second gradient; use roi_align, which has one.")


dispatch.define(
    "roi_pool(Tensor input, Tensor rois, SymInt height, SymInt width, float spatial_scale) "
    "-> Tensor",
    reference=roi_pool_reference,
    fake=fake_roi_pool,
    numba="detectron2.ops.roi_pool.cpu:roi_pool",
    backward=differentiate_roi_pool,
    save=save_roi_pool,
)
dispatch.define(
    "roi_pool_backward(Tensor grad, Tensor input, Tensor rois, float spatial_scale) -> Tensor",
    reference=roi_pool_backward_reference,
    fake=fake_roi_pool_backward,
    numba="detectron2.ops.roi_pool.cpu:roi_pool_backward",
    backward=refuse_second_gradient,
)
