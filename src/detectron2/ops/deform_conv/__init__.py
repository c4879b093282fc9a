"""Deformable convolution, plain (version 1) and modulated (version 2)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair, check_features, check_floating, check_same_device
from detectron2.ops.deform_conv.reference import (
    deform_conv_backward_reference,
    deform_conv_reference,
)
from detectron2.ops.formats import format_of, is_channels_last

__all__ = ["deform_conv"]


def deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    offset_groups: int = 1,
) -> Tensor:
    """Convolution whose taps read the input at a learned displacement.

    From https://arxiv.org/abs/1703.06211; with `mask` the modulated version of
    https://arxiv.org/abs/1811.11168. Differentiable in every tensor.

    Args:
        input: (N, C, H, W).
        offset: (N, G * 2 * P, h, w): for each of the G offset groups and P = kh * kw taps the
            vertical, then the horizontal displacement, in cells of `input`.
        weight: (C_out, C / groups, kh, kw).
        bias: (C_out,).
        mask: (N, G * P, h, w) factor of every value that a tap reads.
        stride, padding, dilation: as in a convolution, one number or (vertical, horizontal).
        groups: of the convolution.
        offset_groups: G; channels in one group share their offsets.

    Returns:
        (N, C_out, h, w), dtype and memory format of `input`.

    Raises:
        ValueError: shapes that do not fit each other, or tensors on two devices.
        TypeError: a tensor does not hold floating point numbers.
    """
    stride, dilation = as_pair(stride, "stride"), as_pair(dilation, "dilation")
    padding = as_pair(padding, "padding", minimum=0)
    check_features(input)
    check_kernel(input, weight, bias, groups, offset_groups)
    kernel = weight.shape[2:]
    size = [
        (input.shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1)
        // stride[axis]
        + 1
        for axis in (0, 1)
    ]
    if min(size) < 1:
        raise ValueError(
            f"A kernel of {tuple(kernel)} with dilation {dilation} does not fit into an input of "
            f"{tuple(input.shape[2:])} with padding {padding}."
        )
    taps = offset_groups * kernel[0] * kernel[1]
    check_displacement(offset, "offset", (input.shape[0], 2 * taps, *size), input)
    if mask is not None:
        check_displacement(mask, "mask", (input.shape[0], taps, *size), input)
    return dispatch.call(
        "deform_conv",
        input,
        offset,
        weight,
        bias,
        mask,
        list(stride),
        list(padding),
        list(dilation),
        int(groups),
        int(offset_groups),
    )


def check_kernel(
    input: Tensor, weight: Tensor, bias: Tensor | None, groups: int, offset_groups: int
) -> None:
    channels = input.shape[1]
    if weight.dim() != 4 or weight.shape[1] * groups != channels or weight.shape[0] % groups:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} for {channels} input channels in {groups} "
            "groups; expected (C_out, C / groups, kh, kw) with C_out divisible by groups."
        )
    if channels % offset_groups:
        raise ValueError(
            f"{channels} input channels cannot be divided into {offset_groups} offset groups."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}; expected ({weight.shape[0]},), one per output "
            "channel."
        )
    check_same_device(input, weight, "input", "weight")


def check_displacement(tensor: Tensor, name: str, shape: tuple[int, ...], input: Tensor) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; this input, kernel, stride, padding and "
            f"dilation need {shape}."
        )
    check_floating(tensor, name)
    check_same_device(input, tensor, "input", name)


def fake_deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    output = input.new_empty(input.shape[0], weight.shape[0], *offset.shape[2:])
    return output.contiguous(memory_format=format_of(is_channels_last(input)))


def fake_deform_conv_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    memory_format = format_of(is_channels_last(input))
    return (
        input.new_empty(input.shape).contiguous(memory_format=memory_format),
        offset.new_empty(offset.shape),
        weight.new_empty(weight.shape),
        offset.new_empty(0) if mask is None else mask.new_empty(mask.shape),
    )


def save_deform_conv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, offset, weight, bias, mask, *ctx.arguments = inputs
    ctx.save_for_backward(input, offset, weight, mask)
    ctx.has_bias = bias is not None


def differentiate_deform_conv(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_input, of_offset, of_weight, of_mask = torch.ops.detectron2.deform_conv_backward(
        grad, *ctx.saved_tensors, *ctx.arguments
    )
    of_bias = grad.sum((0, 2, 3)) if ctx.has_bias else None
    of_mask = None if ctx.saved_tensors[3] is None else of_mask
    return of_input, of_offset, of_weight, of_bias, of_mask, None, None, None, None, None


def refuse_second_gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        "The kernels of deform_conv have no second gradient; compute it within "
        "detectron2.ops.dispatch.use_implementation('reference')."
    )


dispatch.define(
    "deform_conv(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, "
    "int[] stride, int[] padding, int[] dilation, int groups, int offset_groups) -> Tensor",
    reference=deform_conv_reference,
    fake=fake_deform_conv,
    numba="detectron2.ops.deform_conv.cpu:deform_conv",
    triton="detectron2.ops.deform_conv.gpu:deform_conv",
    backward=differentiate_deform_conv,
    save=save_deform_conv,
)
dispatch.define(
    "deform_conv_backward(Tensor grad, Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
    "int[] stride, int[] padding, int[] dilation, int groups, int offset_groups) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    reference=deform_conv_backward_reference,
    fake=fake_deform_conv_backward,
    numba="detectron2.ops.deform_conv.cpu:deform_conv_backward",
    triton="detectron2.ops.deform_conv.gpu:deform_conv_backward",
    backward=refuse_second_gradient,
)
