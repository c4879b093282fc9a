"""RegNet: stages of widths that grow by a quantised line ("Designing Network Design Spaces")."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from detectron2.layers import CNNBlockBase, get_norm
from detectron2.modeling.backbone._regnet_blocks import (
    Activation,
    BasicTransform,
    BottleneckTransform,
    Norm,
    ResBlock,
    conv,
)
from detectron2.modeling.backbone.backbone import Backbone

__all__ = [
    "AnyNet",
    "RegNet",
    "ResBasicBlock",
    "ResBottleneckBlock",
    "ResStem",
    "SimpleStem",
    "VanillaBlock",
]


class ResStem(CNNBlockBase):
    """7x7 convolution and 3x3 max pooling, stride 2 each.

    Args:
        w_in: channels of the image.
        w_out: channels of the output.
        norm: see `detectron2.layers.get_norm`.
        activation_class: called without arguments.
    """

    def __init__(self, w_in: int, w_out: int, norm: Norm, activation_class: Activation) -> None:
        super().__init__(w_in, w_out, 4)
        self.conv = conv(w_in, w_out, 7, stride=2)
        self.bn = get_norm(norm, w_out)
        self.af = activation_class()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.af(self.bn(self.conv(x))))


class SimpleStem(CNNBlockBase):
    """One 3x3 convolution of stride 2; arguments as of `ResStem`."""

    def __init__(self, w_in: int, w_out: int, norm: Norm, activation_class: Activation) -> None:
        super().__init__(w_in, w_out, 2)
        self.conv = conv(w_in, w_out, 3, stride=2)
        self.bn = get_norm(norm, w_out)
        self.af = activation_class()

    def forward(self, x: Tensor) -> Tensor:
        return self.af(self.bn(self.conv(x)))


class VanillaBlock(CNNBlockBase):
    """Two 3x3 convolutions without a shortcut.

    Args:
        w_in: channels of the input.
        w_out: channels of the output.
        stride: of the first convolution.
        norm: see `detectron2.layers.get_norm`.
        activation_class: called without arguments.
        _params: not used; every block class takes it.
    """

    def __init__(
        self,
        w_in: int,
        w_out: int,
        stride: int,
        norm: Norm,
        activation_class: Activation,
        _params: dict[str, Any],
    ) -> None:
        super().__init__(w_in, w_out, stride)
        self.a = conv(w_in, w_out, 3, stride=stride)
        self.a_bn = get_norm(norm, w_out)
        self.a_af = activation_class()
        self.b = conv(w_out, w_out, 3)
        self.b_bn = get_norm(norm, w_out)
        self.b_af = activation_class()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a_af(self.a_bn(self.a(x)))
        return self.b_af(self.b_bn(self.b(x)))


class ResBasicBlock(ResBlock):
    """Two 3x3 convolutions and a shortcut; arguments as of `VanillaBlock`."""

    def __init__(
        self,
        w_in: int,
        w_out: int,
        stride: int,
        norm: Norm,
        activation_class: Activation,
        params: dict[str, Any],
    ) -> None:
        transform = BasicTransform(w_in, w_out, stride, norm, activation_class)
        super().__init__(w_in, w_out, stride, norm, activation_class, transform)


class ResBottleneckBlock(ResBlock):
    """The paper's X block, with squeeze-and-excitation its Y block.

    Args:
        w_in: channels of the input.
        w_out: channels of the output.
        stride: of the 3x3 convolution.
        norm: see `detectron2.layers.get_norm`.
        activation_class: called without arguments.
        params: "bot_mul", width of the 3x3 convolution over `w_out`; "group_w", channels of each
            of its groups; "se_r", channels inside SE over `w_in`, 0 for no SE.
    """

    def __init__(
        self,
        w_in: int,
        w_out: int,
        stride: int,
        norm: Norm,
        activation_class: Activation,
        params: dict[str, Any],
    ) -> None:
        transform = BottleneckTransform(w_in, w_out, stride, norm, activation_class, params)
        super().__init__(w_in, w_out, stride, norm, activation_class, transform)


class AnyStage(nn.Sequential):
    """Blocks ``b1``, ``b2``, ...; the first one changes width and resolution."""

    def __init__(
        self,
        *,
        w_in: int,
        w_out: int,
        stride: int,
        depth: int,
        block_class: Callable[..., CNNBlockBase],
        norm: Norm,
        activation_class: Activation,
        params: dict[str, Any],
    ) -> None:
        super().__init__()
        for index in range(depth):
            block = block_class(w_in, w_out, stride, norm, activation_class, params)
            self.add_module(f"b{index + 1}", block)
            w_in, stride = w_out, 1


class AnyNet(Backbone):
    """A stem and stages ``s1``, ``s2``, ... of any widths and depths.

    Args:
        stem_class: such as `SimpleStem`.
        stem_width: channels of the stem.
        block_class: such as `ResBottleneckBlock`.
        depths: per stage, blocks.
        widths: per stage, channels.
        group_widths: per stage, channels per group of the 3x3 convolutions.
        strides: per stage.
        bottleneck_ratios: per stage, width of the 3x3 convolutions over that of the block.
        se_ratio: channels inside squeeze-and-excitation over the block's input; 0 for none.
        activation_class: called without arguments; None for ReLU.
        freeze_at: see `freeze`.
        norm: see `detectron2.layers.get_norm`.
        out_features: what `forward` returns, out of "stem", "s1", ...; by default the last stage.
            Stages behind the last one named are left out.

    Raises:
        ValueError: an output does not exist.
    """

    def __init__(
        self,
        *,
        stem_class: Callable[..., CNNBlockBase],
        stem_width: int,
        block_class: Callable[..., CNNBlockBase],
        depths: Sequence[int],
        widths: Sequence[int],
        group_widths: Sequence[int],
        strides: Sequence[int],
        bottleneck_ratios: Sequence[float],
        se_ratio: float,
        activation_class: Activation | None,
        freeze_at: int = 0,
        norm: Norm = "BN",
        out_features: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        known = ["stem", *(f"s{index + 1}" for index in range(len(depths)))]
        out_features = list(out_features or known[-1:])
        if not set(out_features) <= set(known):
            raise ValueError(f"AnyNet out_features {out_features} must be some of {known}.")
        if activation_class is None:
            activation_class = _relu

        self.stem = stem_class(3, stem_width, norm, activation_class)
        channels, stride = stem_width, self.stem.stride
        self._out_feature_channels = {"stem": channels}
        self._out_feature_strides = {"stem": stride}
        self._out_features = out_features
        self._stage_names = known[1 : 1 + max(map(known.index, out_features))]
        per_stage = zip(depths, widths, group_widths, strides, bottleneck_ratios)
        for name, (depth, width, group_width, step, ratio) in zip(self._stage_names, per_stage):
            stage = AnyStage(
                w_in=channels,
                w_out=width,
                stride=step,
                depth=depth,
                block_class=block_class,
                norm=norm,
                activation_class=activation_class,
                params={"bot_mul": ratio, "group_w": group_width, "se_r": se_ratio},
            )
            self.add_module(name, stage)
            channels, stride = width, stride * step
            self._out_feature_channels[name] = channels
            self._out_feature_strides[name] = stride
        self.apply(_init_weights)
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps (N, channels, H / stride, W / stride) of (N, 3, H, W) images, by name.

        Raises:
            ValueError: the input has another number of dimensions.
        """
        if x.dim() != 4:
            raise ValueError(f"RegNet takes images (N, C, H, W), not shape {tuple(x.shape)}.")
        outputs = {"stem": self.stem(x)}
        x = outputs["stem"]
        for name in self._stage_names:
            x = outputs[name] = getattr(self, name)(x)
        return {name: out for name, out in outputs.items() if name in self._out_features}

    def freeze(self, freeze_at: int = 0) -> AnyNet:
        """Stop training the first layers: no gradients, and frozen statistics.

        Args:
            freeze_at: 0 nothing, 1 the stem, 2 the stem and s1, and so on.

        Returns:
            the module itself.
        """
        parts = [[self.stem], *(getattr(self, name) for name in self._stage_names)]
        for part in parts[: max(freeze_at, 0)]:
            for block in part:
                block.freeze()
        return self


class RegNet(AnyNet):
    """AnyNet whose widths follow a quantised line (the paper's section 3.3).

    Block j of the line has width w_0 + w_a * j, rounded to w_0 * w_m ** k for an integer k and to
    a multiple of 8; blocks of equal width make a stage.

    Args:
        stem_class: see `AnyNet`.
        stem_width: see `AnyNet`.
        block_class: see `AnyNet`.
        depth: blocks of all stages together.
        w_a: slope of the line.
        w_0: width of the first block.
        w_m: ratio between quantised widths.
        group_width: channels per group; smaller where a stage is narrower.
        stride: of every stage.
        bottleneck_ratio: of every stage.
        se_ratio: see `AnyNet`.
        activation_class: see `AnyNet`.
        freeze_at: see `AnyNet`.
        norm: see `AnyNet`.
        out_features: see `AnyNet`.
    """

    def __init__(
        self,
        *,
        stem_class: Callable[..., CNNBlockBase],
        stem_width: int,
        block_class: Callable[..., CNNBlockBase],
        depth: int,
        w_a: float,
        w_0: int,
        w_m: float,
        group_width: int,
        stride: int = 2,
        bottleneck_ratio: float = 1.0,
        se_ratio: float = 0.0,
        activation_class: Activation | None = None,
        freeze_at: int = 0,
        norm: Norm = "BN",
        out_features: Sequence[str] | None = None,
    ) -> None:
        line = _stages_of_line(depth, w_a, w_0, w_m)
        stages = [
            (blocks, *_compatible(width, bottleneck_ratio, group_width)) for width, blocks in line
        ]
        depths, widths, group_widths = zip(*stages, strict=True)
        super().__init__(
            stem_class=stem_class,
            stem_width=stem_width,
            block_class=block_class,
            depths=depths,
            widths=widths,
            group_widths=group_widths,
            strides=[stride] * len(stages),
            bottleneck_ratios=[bottleneck_ratio] * len(stages),
            se_ratio=se_ratio,
            activation_class=activation_class,
            freeze_at=freeze_at,
            norm=norm,
            out_features=out_features,
        )


def _stages_of_line(depth: int, w_a: float, w_0: int, w_m: float) -> list[tuple[int, int]]:
    """Width and number of blocks of each stage.

    Raises:
        ValueError: the parameters make no line of growing, quantisable widths.
    """
    if w_a < 0 or w_0 <= 0 or w_m <= 1 or w_0 % 8 != 0:
        raise ValueError(
            f"w_a={w_a}, w_0={w_0}, w_m={w_m} make no RegNet: w_a must not be negative, w_0 a "
            "positive multiple of 8 and w_m above 1."
        )
    stages: dict[int, int] = {}
    for block in range(depth):
        exponent = round(math.log((w_0 + w_a * block) / w_0, w_m))
        width = round(w_0 * w_m**exponent / 8) * 8
        stages[width] = stages.get(width, 0) + 1
    return list(stages.items())


def _compatible(width: int, ratio: float, group_width: int) -> tuple[int, int]:
    """Width and group width next to the given ones such that groups divide the bottleneck."""
    bottleneck = max(1, int(width * ratio))
    group_width = min(group_width, bottleneck)
    step = math.lcm(group_width, int(ratio)) if ratio > 1 else group_width
    bottleneck = max(step, round(bottleneck / step) * step)
    return int(bottleneck / ratio), group_width


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        # He initialisation by output, groups not counted.
        fan_out = math.prod(module.kernel_size) * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
