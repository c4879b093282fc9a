"""ResNet and ResNeXt, with plain, grouped, dilated and deformable bottlenecks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn

from detectron2.config.mapping import read_arguments
from detectron2.config.mapping.backbone import RESNET
from detectron2.layers import (
    CNNBlockBase,
    Conv2d,
    DeformConv,
    ModulatedDeformConv,
    ShapeSpec,
    get_norm,
)
from detectron2.modeling.backbone._resnet_plan import BASIC_DEPTHS, blocks_per_stage, plan_stages
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY

__all__ = [
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "DeformBottleneckBlock",
    "ResNet",
    "ResNetBlockBase",
    "build_resnet_backbone",
    "make_stage",
]

Norm = str | Callable[[int], nn.Module]

ResNetBlockBase = CNNBlockBase  # the older name, still subclassed


class BasicBlock(CNNBlockBase):
    """Two 3x3 convolutions and a shortcut (ResNet paper, figure 5 left).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the first convolution.
        norm: see `detectron2.layers.get_norm`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, norm: Norm = "BN"
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = _projection(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = self.conv2(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BottleneckBlock(CNNBlockBase):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (ResNet paper, figure 5 right).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        bottleneck_channels: of the 3x3 convolution.
        stride: of the block.
        num_groups: of the 3x3 convolution; more than one makes it a ResNeXt block.
        norm: see `detectron2.layers.get_norm`.
        stride_in_1x1: stride in the first 1x1 convolution (as in the weights of the paper's
            authors) instead of the 3x3 (as in torchvision's).
        dilation: of the 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = _projection(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride=stride_1x1)
        self.conv2 = _conv(
            bottleneck_channels,
            bottleneck_channels,
            3,
            norm,
            stride=stride_3x3,
            groups=num_groups,
            dilation=dilation,
        )
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.conv2(out))
        out = self.conv3(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class DeformBottleneckBlock(CNNBlockBase):
    """A bottleneck whose 3x3 convolution is deformable.

    "Deformable Convolutional Networks" and, modulated, "Deformable ConvNets v2". The offsets
    start at zero, so an untrained block is a plain bottleneck (modulated: with halved samples).

    Args:
        in_channels, out_channels, bottleneck_channels, stride, num_groups, norm, stride_in_1x1,
        dilation: see `BottleneckBlock`.
        deform_modulated: also learn a weight in (0, 1) for every sample.
        deform_num_groups: channel groups that have offsets of their own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.deform_modulated = deform_modulated
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = _projection(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride=stride_1x1)

        # Per sample of the 3x3 grid: y and x offset, and the weight where modulated.
        values_per_sample = 3 if deform_modulated else 2
        self.conv2_offset = Conv2d(
            bottleneck_channels,
            values_per_sample * 9 * deform_num_groups,
            kernel_size=3,
            stride=stride_3x3,
            padding=dilation,
            dilation=dilation,
        )
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)
        deform_conv = ModulatedDeformConv if deform_modulated else DeformConv
        self.conv2 = deform_conv(
            bottleneck_channels,
            bottleneck_channels,
            kernel_size=3,
            stride=stride_3x3,
            padding=dilation,
            bias=False,
            groups=num_groups,
            dilation=dilation,
            deformable_groups=deform_num_groups,
            norm=get_norm(norm, bottleneck_channels),
        )
        weight_init.c2_msra_fill(self.conv2)
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = F.relu_(self._deform(out))
        out = self.conv3(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)

    def _deform(self, x: Tensor) -> Tensor:
        offset_and_mask = self.conv2_offset(x)
        if not self.deform_modulated:
            return self.conv2(x, offset_and_mask)
        num_offsets = offset_and_mask.shape[1] // 3 * 2
        offset, mask = offset_and_mask.tensor_split((num_offsets,), dim=1)
        return self.conv2(x, offset, mask.sigmoid())


class BasicStem(CNNBlockBase):
    """7x7 convolution and 3x3 max pooling, stride 2 each.

    Args:
        in_channels: of the image.
        out_channels: of the output.
        norm: see `detectron2.layers.get_norm`.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and stages ``res2``, ``res3``, ... ("Deep Residual Learning for Image Recognition").

    Args:
        stem: with attributes ``out_channels`` and ``stride``.
        stages: per stage, its blocks (`CNNBlockBase`). Stages past the last one in `out_features`
            are left out, and the linear layer then sits on the last stage that is kept.
        num_classes: add average pooling and a linear layer for this many classes.
        out_features: what `forward` returns, out of "stem", "res2", ... and "linear"; by default
            "linear" where there is one, else the last stage.
        freeze_at: see `freeze`.

    Raises:
        ValueError: an output does not exist.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Sequence[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        names = [f"res{index}" for index in range(2, 2 + len(stages))]
        if out_features is None:
            out_features = [names[-1] if num_classes is None else "linear"]
        known = ["stem", *names] + (["linear"] if num_classes is not None else [])
        if not out_features or not set(out_features) <= set(known):
            raise ValueError(f"ResNet out_features {list(out_features)} must be some of {known}.")
        asked = [known.index(name) for name in out_features if name != "linear"]
        if asked:
            names = names[: max(asked)]

        self.stem = stem
        self.num_classes = num_classes
        self.stage_names = tuple(names)
        self._out_features = list(out_features)
        channels, stride = stem.out_channels, stem.stride
        self._out_feature_channels = {"stem": channels}
        self._out_feature_strides = {"stem": stride}
        for name, blocks in zip(names, stages):
            self.add_module(name, nn.Sequential(*blocks))
            channels = blocks[-1].out_channels
            for block in blocks:
                stride *= block.stride
            self._out_feature_channels[name] = channels
            self._out_feature_strides[name] = stride
        if num_classes is not None:
            self._add_classifier(channels, num_classes)
        self.freeze(freeze_at)

    def _add_classifier(self, in_channels: int, num_classes: int) -> None:
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.linear = nn.Linear(in_channels, num_classes)
        # "Accurate, Large Minibatch SGD", section 5.1: zero mean, deviation 0.01.
        nn.init.normal_(self.linear.weight, std=0.01)
        self._out_feature_channels["linear"] = num_classes
        self._out_feature_strides["linear"] = None

    @property
    def stages(self) -> list[nn.Module]:
        """The stages in order."""
        return [getattr(self, name) for name in self.stage_names]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps of images.

        Args:
            x: (N, C, H, W).

        Returns:
            by name, (N, channels, H / stride, W / stride); "linear" is (N, num_classes).
        """
        if x.dim() != 4:
            raise ValueError(f"ResNet takes images (N, C, H, W), not shape {tuple(x.shape)}.")
        outputs = {"stem": self.stem(x)}
        x = outputs["stem"]
        for name in self.stage_names:
            x = outputs[name] = getattr(self, name)(x)
        if self.num_classes is not None:
            outputs["linear"] = self.linear(torch.flatten(self.avgpool(x), 1))
        return {name: out for name, out in outputs.items() if name in self._out_features}

    def freeze(self, freeze_at: int = 0) -> ResNet:
        """Stop training the first layers: no gradients, and frozen statistics.

        Args:
            freeze_at: 0 nothing, 1 the stem, 2 the stem and res2, and so on.

        Returns:
            the module itself.
        """
        parts = [[self.stem], *self.stages]
        for part in parts[: max(freeze_at, 0)]:
            for block in part:
                block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase],
        num_blocks: int,
        *,
        in_channels: int,
        out_channels: int,
        **kwargs: Any,
    ) -> list[CNNBlockBase]:
        """Blocks of one stage.

        Args:
            block_class: called as ``block_class(in_channels=..., out_channels=..., **kwargs)``.
            num_blocks: how many.
            in_channels: of the first block; the others take `out_channels`.
            out_channels: of every block.
            kwargs: for every block. ``NAME_per_block`` is a list with block i's `NAME`, as in
                ``stride_per_block=[2, 1, 1]``.

        Raises:
            ValueError: a list does not have `num_blocks` items, or an argument is given twice.
        """
        per_block = {
            key.removesuffix("_per_block"): kwargs.pop(key)
            for key in list(kwargs)
            if key.endswith("_per_block")
        }
        for name, values in per_block.items():
            if len(values) != num_blocks:
                raise ValueError(f"{name}_per_block={values!r} is not for {num_blocks} blocks.")
            if name in kwargs:
                raise ValueError(f"Both {name} and {name}_per_block are given; keep one.")
        return [
            block_class(
                in_channels=in_channels if index == 0 else out_channels,
                out_channels=out_channels,
                **{name: values[index] for name, values in per_block.items()},
                **kwargs,
            )
            for index in range(num_blocks)
        ]

    @staticmethod
    def make_default_stages(
        depth: int, block_class: type[CNNBlockBase] | None = None, **kwargs: Any
    ) -> list[list[CNNBlockBase]]:
        """The four stages of the ResNet of a depth.

        Args:
            depth: 18, 34, 50, 101 or 152.
            block_class: by default `BasicBlock` up to 34, `BottleneckBlock` above. Above 34 it
                must take ``bottleneck_channels``.
            kwargs: for every block.

        Raises:
            ValueError: no such depth.
        """
        is_basic = depth in BASIC_DEPTHS
        block_class = block_class or (BasicBlock if is_basic else BottleneckBlock)
        stages = []
        in_channels, out_channels = 64, 64 if is_basic else 256
        for num_blocks, first_stride in zip(blocks_per_stage(depth), (1, 2, 2, 2), strict=True):
            bottleneck = {} if is_basic else {"bottleneck_channels": out_channels // 4}
            stages.append(
                ResNet.make_stage(
                    block_class,
                    num_blocks,
                    stride_per_block=[first_stride] + [1] * (num_blocks - 1),
                    in_channels=in_channels,
                    out_channels=out_channels,
                    **{**bottleneck, **kwargs},
                )
            )
            in_channels, out_channels = out_channels, out_channels * 2
        return stages


def make_stage(*args: Any, **kwargs: Any) -> list[CNNBlockBase]:
    """The older address of `ResNet.make_stage`."""
    return ResNet.make_stage(*args, **kwargs)


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: Any, input_shape: ShapeSpec) -> ResNet:
    """The ResNet of ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: the keys contradict each other.
    """
    return _resnet(in_channels=input_shape.channels, **read_arguments(cfg, RESNET))


def _resnet(
    *,
    in_channels: int,
    norm: Norm,
    stem_out_channels: int,
    out_features: Sequence[str],
    freeze_at: int,
    **options: Any,
) -> ResNet:
    stem = BasicStem(in_channels=in_channels, out_channels=stem_out_channels, norm=norm)
    names = ["stem", "res2", "res3", "res4", "res5"]
    last = max((names.index(name) for name in out_features if name in names), default=0)
    plans = plan_stages(stem_out_channels=stem_out_channels, **options)
    stages = [
        ResNet.make_stage(_BLOCK_CLASSES[plan.kind], plan.num_blocks, norm=norm, **plan.arguments)
        for plan in plans[:last]
    ]
    return ResNet(stem, stages, out_features=out_features, freeze_at=freeze_at)


_BLOCK_CLASSES = {
    "basic": BasicBlock,
    "bottleneck": BottleneckBlock,
    "deform": DeformBottleneckBlock,
}


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: Norm,
    dilation: int = 1,
    **kwargs: Any,
) -> Conv2d:
    """A convolution without bias, a norm behind it, that keeps the size up to its stride."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        bias=False,
        norm=get_norm(norm, out_channels),
        **kwargs,
    )
    weight_init.c2_msra_fill(conv)
    return conv


def _projection(in_channels: int, out_channels: int, stride: int, norm: Norm) -> Conv2d | None:
    """1x1 convolution that gives a block's input the shape of its output; None where it has it."""
    if in_channels == out_channels and stride == 1:
        return None
    return _conv(in_channels, out_channels, 1, norm, stride=stride)
