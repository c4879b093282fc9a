"""What the heads of DeepLab and Panoptic-DeepLab are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.config.mapping import lookup
from detectron2.layers import Conv2d, DepthwiseSeparableConv2d, get_norm
from detectron2.projects.deeplab.loss import DeepLabCE

__all__ = [
    "averaged_window",
    "conv",
    "crop_size",
    "decoder_stage",
    "pixel_loss",
    "predictor",
    "separable_convs",
    "two_convs",
    "upsampled",
]


def crop_size(cfg: Any) -> tuple[int, int] | None:
    """(height, width) of the crops in training, in pixels; None without crops.

    Raises:
        ValueError: the crops do not have one size.
    """
    if not lookup(cfg, "INPUT.CROP.ENABLED"):
        return None
    kind = lookup(cfg, "INPUT.CROP.TYPE")
    if kind != "absolute":
        raise ValueError(
            f"INPUT.CROP.TYPE is {kind!r}; DeepLab averages over the size of a crop, so it needs "
            "'absolute'. Or set INPUT.CROP.ENABLED to False."
        )
    height, width = lookup(cfg, "INPUT.CROP.SIZE")
    return height, width


def averaged_window(train_size: tuple[int, int] | None, stride: int) -> tuple[int, int] | None:
    """(height, width) in cells that the pyramid averages over; None for the whole map.

    Raises:
        ValueError: the crop is no multiple of the stride.
    """
    if train_size is None:
        return None
    height, width = train_size
    if height % stride or width % stride:
        raise ValueError(
            f"INPUT.CROP.SIZE is {[height, width]}; it must be a multiple of the feature's stride, "
            f"{stride}."
        )
    return height // stride, width // stride


def pixel_loss(loss_type: str, ignore_value: int, hardest: float = 0.2) -> nn.Module:
    """The loss that MODEL.SEM_SEG_HEAD.LOSS_TYPE names.

    Args:
        hardest: share of the pixels that "hard_pixel_mining" takes.

    Raises:
        ValueError: no such loss.
    """
    if loss_type == "hard_pixel_mining":
        return DeepLabCE(ignore_label=ignore_value, top_k_percent_pixels=hardest)
    if loss_type == "cross_entropy":
        return nn.CrossEntropyLoss(reduction="mean", ignore_index=ignore_value)
    raise ValueError(
        f"MODEL.SEM_SEG_HEAD.LOSS_TYPE is {loss_type!r}; use 'hard_pixel_mining' or "
        "'cross_entropy'."
    )


def upsampled(maps: Tensor, factor: int) -> Tensor:
    """(N, C, h, w) maps, bilinear, as (N, C, h * factor, w * factor)."""
    return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)


def conv(in_channels: int, out_channels: int, kernel_size: int, norm: Any) -> Conv2d:
    """A convolution with normalisation and ReLU that keeps height and width."""
    layer = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_xavier_fill(layer)
    return layer


def two_convs(in_channels: int, hidden: int, out_channels: int, norm: Any) -> nn.Sequential:
    """Two 3x3 convolutions."""
    return nn.Sequential(
        conv(in_channels, hidden, 3, norm),
        conv(hidden, out_channels, 3, norm),
    )


def separable_convs(
    in_channels: int, hidden: int, out_channels: int, norm: Any
) -> DepthwiseSeparableConv2d:
    """What replaces `two_convs`: a 5x5 depthwise separable one, of the same field of view."""
    return DepthwiseSeparableConv2d(
        in_channels,
        out_channels,
        kernel_size=5,
        padding=2,
        norm1=norm,
        activation1=F.relu,
        norm2=norm,
        activation2=F.relu,
    )


def decoder_stage(
    in_channels: int,
    reduced: int,
    coarser: int,
    out_channels: int,
    norm: Any,
    fuse: Callable[[int, int, int, Any], nn.Module],
) -> nn.ModuleDict:
    """What the decoder does with one feature.

    Args:
        in_channels: of the feature.
        reduced: what `project_conv` reduces them to.
        coarser: channels of the decoder so far, which come beside them.
        out_channels: of the decoder after this feature.
        fuse: `two_convs` or `separable_convs`.
    """
    return nn.ModuleDict(
        {
            "project_conv": conv(in_channels, reduced, 1, norm),
            "fuse_conv": fuse(reduced + coarser, out_channels, out_channels, norm),
        }
    )


def predictor(in_channels: int, out_channels: int) -> Conv2d:
    """The last 1x1 convolution."""
    layer = Conv2d(in_channels, out_channels, kernel_size=1)
    nn.init.normal_(layer.weight, 0, 0.001)
    nn.init.zeros_(layer.bias)
    return layer
