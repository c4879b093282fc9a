"""Building blocks of convolutional backbones and heads."""

from collections.abc import Callable
from typing import TypeVar

from fvcore.nn import weight_init
from torch import Tensor, nn

from detectron2.layers.batch_norm import FrozenBatchNorm2d, get_norm
from detectron2.layers.wrappers import Conv2d

__all__ = ["CNNBlockBase", "Conv2d", "DepthwiseSeparableConv2d", "FrozenBatchNorm2d", "get_norm"]

Block = TypeVar("Block", bound="CNNBlockBase")
Norm = str | Callable[[int], nn.Module] | None


class CNNBlockBase(nn.Module):
    """A part of a backbone whose `forward` maps (N, in_channels, H, W) to one feature map.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: cells of the input per cell of the output.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self: Block) -> Block:
        """Stop training this block: no gradients, and constants instead of batch statistics.

        Returns:
            The block itself.
        """
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self


class DepthwiseSeparableConv2d(nn.Module):
    """A kernel_size x kernel_size convolution per channel, then a 1x1 convolution across them.

    Both have stride 1, and a bias only without a normalisation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the per-channel convolution.
        padding: of the per-channel convolution.
        dilation: of the per-channel convolution.
        norm1: normalisation after the first convolution, see `get_norm`.
        activation1: function after the first normalisation.
        norm2: normalisation after the second convolution.
        activation2: function after the second normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        dilation: int = 1,
        *,
        norm1: Norm = None,
        activation1: Callable[[Tensor], Tensor] | None = None,
        norm2: Norm = None,
        activation2: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.depthwise = Conv2d(
            in_channels,
            in_channels,
            kernel_size=kernel_size,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=not norm1,
            norm=get_norm(norm1, in_channels),
            activation=activation1,
        )
        self.pointwise = Conv2d(
            in_channels,
            out_channels,
            kernel_size=1,
            bias=not norm2,
            norm=get_norm(norm2, out_channels),
            activation=activation2,
        )
        weight_init.c2_msra_fill(self.depthwise)
        weight_init.c2_msra_fill(self.pointwise)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, h, w)."""
        return self.pointwise(self.depthwise(x))
