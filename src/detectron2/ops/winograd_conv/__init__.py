"""3x3 convolutions with a quarter of the multiplications: Winograd's minimal filtering.

The ops have no gradients of their own: a trained layer's weight is transformed once, by
:func:`transform_weight`, and used for many inputs. Training puts its backward pass together from
:func:`winograd_conv` and :func:`winograd_weight_gradient`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import check_features, check_same_device
from detectron2.ops.winograd_conv.reference import (
    WEIGHT_TRANSFORM,
    winograd_conv_reference,
    winograd_weight_gradient_reference,
)

__all__ = ["transform_weight", "winograd_conv", "winograd_weight_gradient"]

_SQUARES = 36  # of a tile of 6 x 6


def transform_weight(weight: Tensor) -> Tensor:
    """Weight of a 3x3 convolution as :func:`winograd_conv` takes it.

    Args:
        weight: (K, C, 3, 3), floating point.

    Returns:
        (36, C, K), dtype and device of `weight`: four times its memory.

    Raises:
        ValueError: another shape.
    """
    if weight.dim() != 4 or weight.shape[2:] != (3, 3):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; Winograd's algorithm here takes (K, C, 3, 3)."
        )
    # In float64: the transform happens once and should not add to the error of every output.
    transform = torch.tensor(WEIGHT_TRANSFORM, dtype=torch.float64, device=weight.device)
    squares = torch.einsum("ia,kcab,jb->ijck", transform, weight.detach().double(), transform)
    return squares.flatten(0, 1).to(weight.dtype).contiguous()


def winograd_conv(
    input: Tensor, transformed_weight: Tensor, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """3x3 convolution of stride 1 with one cell of zeros around the map.

    F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
    https://arxiv.org/abs/1509.09308: 2.25 multiplications for each output and pair of channels
    instead of 9. In float32 its error is about 2e-5 of the largest output, ten times that of
    a direct convolution.

    Args:
        input: (N, C, H, W); channels-last memory is read directly. float32 or float64.
        transformed_weight: (36, C, K) of :func:`transform_weight`.
        bias: (K,).
        relu: set negative outputs to zero.

    Returns:
        (N, K, H, W) in channels-last memory, dtype of `input`.

    Raises:
        ValueError: shapes that do not fit, or tensors on two devices.
        TypeError: `input` and weight do not share a floating point dtype.
    """
    check_features(input)
    _check_weight(input, transformed_weight)
    if bias is None:
        bias = input.new_zeros(transformed_weight.shape[2])
    return dispatch.call(
        "winograd_conv", input.detach(), transformed_weight, bias.detach(), bool(relu)
    )


def winograd_weight_gradient(input: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of a loss for the weight of such a convolution, with as few multiplications.

    Args:
        input: (N, C, H, W) of the convolution; float32 or float64.
        gradient: (N, K, H, W), of the loss for the output. Channels-last memory of both is read
            directly.

    Returns:
        (K, C, 3, 3), dtype of `input`.

    Raises:
        ValueError: shapes that do not fit, or tensors on two devices.
    """
    check_features(input)
    check_features(gradient)
    if input.shape[0] != gradient.shape[0] or input.shape[2:] != gradient.shape[2:]:
        raise ValueError(
            f"input has shape {tuple(input.shape)} and gradient {tuple(gradient.shape)}; all but "
            "the channels should be equal."
        )
    check_same_device(input, gradient, "input", "gradient")
    if input.numel() == 0 or gradient.numel() == 0:
        return input.new_zeros(gradient.shape[1], input.shape[1], 3, 3)
    squares = dispatch.call("winograd_weight_gradient", input.detach(), gradient.detach())
    transform = both_sides(input.dtype, input.device)
    window = transform.t() @ squares.flatten(1)  # (9, C * K)
    return window.view(3, 3, input.shape[1], gradient.shape[1]).permute(3, 2, 0, 1)


def both_sides(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(36, 9): the transform of both sides of a 3x3 window at once."""
    transform = torch.tensor(WEIGHT_TRANSFORM, dtype=torch.float64)
    return torch.kron(transform, transform).to(device, dtype)


def _check_weight(input: Tensor, weight: Tensor) -> None:
    if weight.dim() != 3 or weight.shape[0] != _SQUARES or weight.shape[1] != input.shape[1]:
        raise ValueError(
            f"transformed_weight has shape {tuple(weight.shape)} and input {tuple(input.shape)}; "
            f"expected ({_SQUARES}, {input.shape[1]}, K), what transform_weight returns."
        )
    if weight.dtype != input.dtype:
        raise TypeError(f"input is {input.dtype} and transformed_weight {weight.dtype}.")
    check_same_device(input, weight, "input", "transformed_weight")


def fake_winograd_conv(input: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    images, _, height, width = input.shape
    output = input.new_empty(images, weight.shape[2], height, width)
    return output.contiguous(memory_format=torch.channels_last)


dispatch.define(
    "winograd_conv(Tensor input, Tensor weight, Tensor bias, bool relu) -> Tensor",
    reference=winograd_conv_reference,
    fake=fake_winograd_conv,
    numba="detectron2.ops.winograd_conv.cpu:winograd_conv",
)


def fake_winograd_weight_gradient(input: Tensor, gradient: Tensor) -> Tensor:
    return input.new_empty(_SQUARES, input.shape[1], gradient.shape[1])


dispatch.define(
    "winograd_weight_gradient(Tensor input, Tensor gradient) -> Tensor",
    reference=winograd_weight_gradient_reference,
    fake=fake_winograd_weight_gradient,
    numba="detectron2.ops.winograd_conv.cpu:winograd_weight_gradient",
)
