"""Feature Pyramid Network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn

from detectron2.config.mapping import read_arguments
from detectron2.config.mapping.backbone import FPN as FPN_KEYS
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import build_resnet_backbone

__all__ = [
    "FPN",
    "LastLevelMaxPool",
    "LastLevelP6P7",
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
]


class FPN(Backbone):
    """Maps of equal width at every scale ("Feature Pyramid Networks for Object Detection").

    The output of the map of stride 2**n is called ``p{n}``.

    Args:
        bottom_up: the backbone below.
        in_features: its outputs to use, from fine to coarse; each has twice the stride of the
            one before.
        out_channels: of every output.
        norm: see `detectron2.layers.get_norm`; convolutions have a bias only without one.
        top_block: makes coarser maps: called with one map, returns a list of
            ``top_block.num_levels`` maps, each of twice the stride of the one before. Its
            ``in_feature`` names its input, an output of the FPN or of `bottom_up`.
        fuse_type: "sum" adds the upsampled coarser map to the lateral one, "avg" averages them.
        square_pad: side in pixels to which images must be padded; 0 for no demand.

    Raises:
        AssertionError: the strides do not double.
        ValueError: `in_features` is empty, or `fuse_type` is unknown.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str | Callable[[int], nn.Module] = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ) -> None:
        super().__init__()
        if not in_features:
            raise ValueError("FPN in_features is empty (MODEL.FPN.IN_FEATURES); name some outputs.")
        if fuse_type not in ("sum", "avg"):
            raise ValueError(f"FPN fuse_type is {fuse_type!r}; use 'sum' or 'avg'.")
        input_shapes = bottom_up.output_shape()
        strides = [input_shapes[name].stride for name in in_features]
        _assert_strides_are_log2_contiguous(strides)

        self.in_features = tuple(in_features)
        self._levels = [int(math.log2(stride)) for stride in strides]
        for name, level in zip(in_features, self._levels, strict=True):
            lateral = _conv(input_shapes[name].channels, out_channels, 1, norm)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", _conv(out_channels, out_channels, 3, norm))
        self.top_block = top_block
        self.bottom_up = bottom_up
        self._fuse_type = fuse_type
        self._square_pad = square_pad
        self._size_divisibility = strides[-1]

        num_outputs = len(strides) + (0 if top_block is None else top_block.num_levels)
        levels = range(self._levels[0], self._levels[0] + num_outputs)
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def lateral_convs(self) -> list[nn.Module]:
        """1x1 convolutions of the bottom-up maps, from coarse to fine."""
        return [getattr(self, f"fpn_lateral{level}") for level in reversed(self._levels)]

    @property
    def output_convs(self) -> list[nn.Module]:
        """3x3 convolutions of the fused maps, from coarse to fine."""
        return [getattr(self, f"fpn_output{level}") for level in reversed(self._levels)]

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Pyramid of images.

        Args:
            x: input of `bottom_up`, such as (N, 3, H, W) with sides divisible by
                `size_divisibility`.

        Returns:
            "p2", "p3", ...: (N, out_channels, H / stride, W / stride).
        """
        bottom_up_features = self.bottom_up(x)
        results: list[Tensor] = []
        fused: Tensor | None = None
        laterals_outputs = zip(self.lateral_convs, self.output_convs, strict=True)
        for name, (lateral, output) in zip(self.in_features[::-1], laterals_outputs, strict=True):
            fused = self._fuse(lateral(bottom_up_features[name]), fused)
            results.insert(0, output(fused))
        if self.top_block is not None:
            source = self.top_block.in_feature
            top_input = bottom_up_features.get(source)
            if top_input is None:
                top_input = results[self._out_features.index(source)]
            results.extend(self.top_block(top_input))
        return dict(zip(self._out_features, results, strict=True))

    def _fuse(self, lateral: Tensor, coarser: Tensor | None) -> Tensor:
        if coarser is None:
            return lateral
        fused = lateral + F.interpolate(coarser, scale_factor=2.0, mode="nearest")
        return fused / 2 if self._fuse_type == "avg" else fused


class LastLevelMaxPool(nn.Module):
    """p6 for Faster R-CNN: every other cell of p5."""

    def __init__(self) -> None:
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, kernel_size=1, stride=2, padding=0)]


class LastLevelP6P7(nn.Module):
    """p6 and p7 by 3x3 convolutions of stride 2 (RetinaNet paper, footnote 2; FCOS).

    Args:
        in_channels: of the input.
        out_channels: of p6 and p7.
        in_feature: name of the input.
    """

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5") -> None:
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            weight_init.c2_xavier_fill(conv)

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6))]


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """FPN over the ResNet of `cfg`, with p6 by pooling."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    return FPN(bottom_up, top_block=LastLevelMaxPool(), **read_arguments(cfg, FPN_KEYS))


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """FPN over the ResNet of `cfg`, with p6 and p7 by convolution from res5."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    arguments = read_arguments(cfg, FPN_KEYS)
    in_channels = bottom_up.output_shape()["res5"].channels
    top_block = LastLevelP6P7(in_channels, arguments["out_channels"])
    return FPN(bottom_up, top_block=top_block, **arguments)


def _assert_strides_are_log2_contiguous(strides: Sequence[int]) -> None:
    """Raise AssertionError unless each stride is twice the one before it."""
    for finer, coarser in zip(strides, strides[1:]):
        if coarser != 2 * finer:
            raise AssertionError(
                f"Feature maps of strides {list(strides)} make no pyramid: "
                f"{coarser} is not twice {finer}."
            )


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, norm: str | Callable[[int], nn.Module]
) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_xavier_fill(conv)
    return conv
