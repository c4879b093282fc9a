"""Convolutions whose kernels sample at predicted offsets, on any device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detectron2 import ops
from detectron2.utils.develop import create_dummy_class, create_dummy_func

# The dummies are not used here; downstream code imports them from this address.
__all__ = [
    "DeformConv",
    "ModulatedDeformConv",
    "create_dummy_class",
    "create_dummy_func",
    "deform_conv",
    "modulated_deform_conv",
]

IntPair = int | tuple[int, int]


def deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    deformable_groups: int = 1,
    im2col_step: int = 64,
) -> Tensor:
    """Deformable convolution, version 1; `DeformConv.forward` tells the shapes.

    Args:
        input: (N, C, H, W).
        offset: see `DeformConv.forward`.
        weight: (out channels, C / groups, kernel height, kernel width).
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
        groups: of the convolution.
        deformable_groups: groups of channels with offsets of their own.
        im2col_step: ignored; the kernels choose their own block of images.
    """
    return ops.deform_conv(
        input,
        offset,
        weight.to(input.dtype),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        offset_groups=deformable_groups,
    )


def modulated_deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Tensor:
    """Deformable convolution, version 2; `ModulatedDeformConv.forward` tells the shapes.

    Args:
        input: (N, C, H, W).
        offset: see `ModulatedDeformConv.forward`.
        mask: see `ModulatedDeformConv.forward`.
        weight: (out channels, C / groups, kernel height, kernel width).
        bias: (out channels,).
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
        groups: of the convolution.
        deformable_groups: groups of channels with offsets and masks of their own.
    """
    return ops.deform_conv(
        input,
        offset,
        weight.to(input.dtype),
        None if bias is None else bias.to(input.dtype),
        mask,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        offset_groups=deformable_groups,
    )


class DeformConv(nn.Module):
    """Deformable convolution ("Deformable Convolutional Networks", Dai et al. 2017).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one number, or (height, width).
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
        groups: of the convolution.
        deformable_groups: groups of input channels with offsets of their own.
        bias: must be False: version 1 has none.
        norm: module that runs on the output.
        activation: function that runs last.

    Raises:
        ValueError: a bias is asked for, or channels cannot be divided into the groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if bias:
            raise ValueError("DeformConv has no bias; use ModulatedDeformConv or a norm.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.deformable_groups = deformable_groups
        self.norm = norm
        self.activation = activation
        self.weight = _new_weight(in_channels, out_channels, self.kernel_size, groups)
        self.bias = None

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: (N, in_channels, H, W).
            offset: (N, 2 * G * P, h, w) for G deformable groups and the P taps of a kernel, in
                this order: (vertical, horizontal) displacement of each tap of each group, in
                cells of `x`.

        Returns:
            (N, out_channels, h, w).
        """
        x = deform_conv(
            x,
            offset,
            self.weight,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deformable_groups,
        )
        return _finish(x, self.norm, self.activation)

    def extra_repr(self) -> str:
        return _describe(self, bias=False)


class ModulatedDeformConv(nn.Module):
    """Deformable convolution whose taps are weighted, too ("Deformable ConvNets v2", 2018).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one number, or (height, width).
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
        groups: of the convolution.
        deformable_groups: groups of input channels with offsets and masks of their own.
        bias: whether there is one.
        norm: module that runs on the output.
        activation: function that runs last.

    Raises:
        ValueError: channels cannot be divided into the groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.deformable_groups = deformable_groups
        self.with_bias = bias
        self.norm = norm
        self.activation = activation
        self.weight = _new_weight(in_channels, out_channels, self.kernel_size, groups)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: (N, in_channels, H, W).
            offset: (N, 2 * G * P, h, w) for G deformable groups and the P taps of a kernel, in
                this order: (vertical, horizontal) displacement of each tap of each group, in
                cells of `x`.
            mask: (N, G * P, h, w), the weight of each tap of each group.

        Returns:
            (N, out_channels, h, w).
        """
        x = modulated_deform_conv(
            x,
            offset,
            mask,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deformable_groups,
        )
        return _finish(x, self.norm, self.activation)

    def extra_repr(self) -> str:
        return _describe(self, bias=self.with_bias)


def _pair(value: IntPair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _new_weight(
    in_channels: int, out_channels: int, kernel_size: tuple[int, int], groups: int
) -> nn.Parameter:
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{in_channels} input and {out_channels} output channels cannot both be divided into "
            f"{groups} groups."
        )
    weight = torch.empty(out_channels, in_channels // groups, *kernel_size)
    return nn.Parameter(nn.init.kaiming_uniform_(weight, nonlinearity="relu"))


def _finish(
    x: Tensor, norm: nn.Module | None, activation: Callable[[Tensor], Tensor] | None
) -> Tensor:
    if norm is not None:
        x = norm(x)
    return x if activation is None else activation(x)


def _describe(conv: Any, *, bias: bool) -> str:
    names = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "deformable_groups",
    )
    return ", ".join(f"{name}={getattr(conv, name)}" for name in names) + f", bias={bias}"
