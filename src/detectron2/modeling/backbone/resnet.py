"""ResNet and ResNeXt, with plain, grouped, dilated and deformable bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.config.mapping import read_arguments
from detectron2.config.mapping.backbone import RESNET
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling.backbone._resnet_blocks import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    DeformBottleneckBlock,
    Norm,
)
from detectron2.modeling.backbone._resnet_plan import (
    BASIC_DEPTHS,
    StagePlan,
    blocks_per_stage,
    plan_stages,
)
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

ResNetBlockBase = CNNBlockBase  # the older name, still subclassed


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
    plans = plan_stages(stem_out_channels=stem_out_channels, **options)
    return resnet_of_plans(stem, plans, norm=norm, out_features=out_features, freeze_at=freeze_at)


def resnet_of_plans(
    stem: nn.Module,
    plans: Sequence[StagePlan],
    *,
    norm: Norm,
    out_features: Sequence[str],
    freeze_at: int,
) -> ResNet:
    """The ResNet of a stem and of plans of res2 to res5, up to the last of `out_features`."""
    names = ["stem", "res2", "res3", "res4", "res5"]
    last = max((names.index(name) for name in out_features if name in names), default=0)
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
