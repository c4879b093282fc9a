"""Faster convolutions for a training on a CPU.

Frozen batch normalization, addition and ReLU are part of the convolution, so their maps are never
written; wide 3x3 convolutions run by Winograd's algorithm, forward and backward. 256 channels on
80 x 100 cells, one thread of a Sapphire Rapids: forward 29 ms instead of 63, gradient of the input
27 instead of 63, gradient of the weight 30 instead of 74.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.ops.winograd_conv import both_sides, winograd_conv, winograd_weight_gradient

__all__ = ["TrainingConv2d", "fits", "has_listeners", "is_relu"]

_FEWEST_CHANNELS = 128
"""Of input and output: the transforms of narrower layers cost more than they save."""

_FEWEST_TILES = 100
"""Of 4x4 outputs: the weight is transformed twice in each step, whatever the size of the map."""

_RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)

Parts = tuple[Tensor | None, Tensor | None, Tensor | None]


class _Window(NamedTuple):
    """Geometry of a convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    kind: str  # "winograd", "product" or "direct"
    relu: bool


class _FusedConvolution(torch.autograd.Function):
    """relu(convolution(x, weight * scale) + offset + add), of which only input and output stay."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor | None,
        offset: Tensor | None,
        add: Tensor | None,
        window: _Window,
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        folded = _scaled(weight, scale)
        if window.kind == "winograd":
            out = _by_winograd(x, folded, offset, add, window.relu)
        else:
            out = _directly(x, folded, offset, add, window)
        ctx.save_for_backward(x, weight, scale, out if window.relu else None)
        ctx.window = window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, out = ctx.saved_tensors
        window: _Window = ctx.window
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        if out is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        of_input, of_weight, _, of_offset, of_add, _ = ctx.needs_input_grad
        folded = _scaled(weight, scale)
        backward = _GRADIENTS[window.kind]
        d_input, d_weight = backward(gradient, x, folded, window, of_input, of_weight)
        if d_weight is not None:
            d_weight = _laid_out_like(weight, _scaled(d_weight, scale))
        d_offset = gradient.sum((0, 2, 3)) if of_offset else None
        return d_input, d_weight, None, d_offset, gradient if of_add else None, None


def _scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    return weight if scale is None else weight * scale.view(-1, 1, 1, 1)


def _laid_out_like(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the strides of the weight, as DistributedDataParallel wants it."""
    if gradient.stride() == weight.stride():
        return gradient
    if weight.is_contiguous() and gradient.is_contiguous():  # they differ where a side is 1
        return gradient.as_strided(weight.shape, weight.stride())
    return torch.empty_like(weight).copy_(gradient)


def _by_winograd(
    x: Tensor, weight: Tensor, offset: Tensor | None, add: Tensor | None, relu: bool
) -> Tensor:
    transformed = _transformed(weight.flatten(2).permute(2, 1, 0))
    # It is a view of memory in another order, and activations change it in place, which autograd
    # forbids for views made here; .data is the same memory, and no view.
    out = winograd_conv(x, transformed, offset, relu and add is None).data
    if add is None:
        return out
    out += add
    return F.relu_(out) if relu else out


def _directly(
    x: Tensor, weight: Tensor, offset: Tensor | None, add: Tensor | None, window: _Window
) -> Tensor:
    if window.kind == "product" and add is None:
        return _as_product(x, weight, offset, window)
    weight = weight.contiguous(memory_format=torch.channels_last)
    geometry = (window.padding, window.stride, window.dilation, window.groups)
    convolution = torch.ops.mkldnn._convolution_pointwise
    if add is None:
        activation = "relu" if window.relu else "none"
        return convolution(x, weight, offset, *geometry, activation, [], "")
    clip = "relu" if window.relu else None
    add = add.contiguous(memory_format=torch.channels_last)
    return convolution.binary(
        x, add, weight, offset, *geometry, "add", 1.0, clip, [], ""
    )  # fmt: skip


def _as_product(x: Tensor, weight: Tensor, offset: Tensor | None, window: _Window) -> Tensor:
    """A 1x1 convolution: cells times channels."""
    x = _read_cells(x, window)
    activation = "relu" if window.relu else "none"
    out = torch.ops.mkldnn._linear_pointwise(
        x.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten(1), offset, activation, [], ""
    )
    out = out.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)
    return out.data  # as above


def _read_cells(x: Tensor, window: _Window) -> Tensor:
    """What a 1x1 convolution reads of its input, in channels-last memory."""
    down, right = window.stride
    return x[:, :, ::down, ::right].contiguous(memory_format=torch.channels_last)


def _winograd_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, _: _Window, of_input: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    d_input = d_weight = None
    if of_input:
        turned = weight.flatten(2).flip(2).permute(2, 0, 1)
        d_input = winograd_conv(gradient, _transformed(turned))
    if of_weight:
        d_weight = winograd_weight_gradient(x, gradient)
    return d_input, d_weight


def _direct_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, window: _Window, of_input: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    if not (of_input or of_weight):
        return None, None
    weight = weight.contiguous(memory_format=torch.channels_last)
    d_input, d_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, window.stride, window.padding, window.dilation, False, [0, 0],
        window.groups, [of_input, of_weight, False],
    )  # fmt: skip
    return d_input, d_weight


def _product_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, window: _Window, of_input: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    d_input = d_weight = None
    changes = gradient.permute(0, 2, 3, 1).flatten(0, 2)
    if of_weight:
        cells = _read_cells(x, window).permute(0, 2, 3, 1).flatten(0, 2)
        d_weight = (changes.t() @ cells).view_as(weight)
    if of_input:
        images, _, height, width = gradient.shape
        read = (changes @ weight.flatten(1)).view(images, height, width, -1).permute(0, 3, 1, 2)
        if window.stride == (1, 1):
            return read, d_weight
        d_input = torch.zeros_like(x)
        d_input[:, :, :: window.stride[0], :: window.stride[1]] = read
    return d_input, d_weight


_GRADIENTS = {
    "winograd": _winograd_gradients,
    "product": _product_gradients,
    "direct": _direct_gradients,
}


def _transformed(weight: Tensor) -> Tensor:
    """What `transform_weight` returns, as one product in float32: 3 ms instead of 20.

    Args:
        weight: (9, C, K), the cells of the window first.

    Returns:
        (36, C, K).
    """
    return (_both_sides() @ weight.reshape(9, -1)).view(36, *weight.shape[1:])


@functools.cache
def _both_sides() -> Tensor:
    return both_sides(torch.float32, torch.device("cpu"))


class TrainingConv2d(Conv2d):
    """A `Conv2d` that runs in this way where it can: float32 on a CPU, in training.

    The class of a `Conv2d` is changed to this one; names, parameters and, but for rounding, numbers
    stay.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.runs_fused(x):
            return super().forward(x)
        if is_relu(self.activation):
            return self.run(x, relu=True)
        out = self.run(x)
        return out if self.activation is None else self.activation(out)

    def runs_fused(self, x: Tensor) -> bool:
        """Whether `run` takes `x`: in evaluation, say, exporters want PyTorch's own operators."""
        return (
            self.training
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.numel() > 0
            and not torch.is_autocast_enabled("cpu")
            and (self.norm is None or _folds(self.norm))
        )

    def run(self, x: Tensor, *, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """Convolution and frozen normalization, then ``+ add``, then ReLU.

        Args:
            x: (N, C, H, W).
            add: of the output's shape.

        Returns:
            (N, K, H', W') in channels-last memory.
        """
        scale, offset = self._scale_and_offset()
        stride, padding, dilation = _pair(self.stride), _pair(self.padding), _pair(self.dilation)
        window = _Window(stride, padding, dilation, self.groups, self._kind(x), relu)
        out: Tensor = _FusedConvolution.apply(x, self.weight, scale, offset, add, window)
        return out

    def _scale_and_offset(self) -> tuple[Tensor | None, Tensor | None]:
        norm: Any = self.norm
        if norm is None:
            return None, self.bias
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        offset = norm.bias - norm.running_mean * scale
        return scale, offset if self.bias is None else offset + self.bias * scale

    def _kind(self, x: Tensor) -> str:
        if (self.kernel_size, self.padding, self.groups) == ((1, 1), (0, 0), 1):
            return "product"
        tiles = x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)
        window = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        pays = (
            window == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
            and min(self.in_channels, self.out_channels) >= _FEWEST_CHANNELS
            and tiles >= _FEWEST_TILES
        )
        return "winograd" if pays else "direct"


def fits(conv: nn.Module) -> bool:
    """Whether the class of `conv` may be changed to `TrainingConv2d`."""
    return (
        type(conv) is Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and torch.backends.mkldnn.is_available()
    )


def _pair(sides: Any) -> tuple[int, int]:
    down, right = sides
    return down, right


def _folds(norm: nn.Module) -> bool:
    return type(norm) is FrozenBatchNorm2d and not has_listeners(norm)


def has_listeners(module: nn.Module) -> bool:
    """Whether somebody waits for the module to be called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_relu(activation: Callable[[Tensor], Tensor] | None) -> bool:
    """Whether it is ReLU and nothing else."""
    if isinstance(activation, nn.Module):
        return type(activation) is nn.ReLU and not has_listeners(activation)
    return activation in _RELU_FUNCTIONS
