"""ResNet with a deeper stem and dilated last stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fvcore.nn import weight_init
from torch import Tensor
from torch.nn import functional as F

from detectron2.config.mapping import read_arguments
from detectron2.config.mapping.backbone import RESNET
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from detectron2.modeling.backbone._resnet_blocks import Norm
from detectron2.modeling.backbone._resnet_plan import BASIC_DEPTHS, StagePlan, plan_stages
from detectron2.modeling.backbone.resnet import BasicStem, ResNet, resnet_of_plans
from detectron2.projects.deeplab.config import DEEPLAB_BACKBONE

__all__ = ["DeepLabStem", "build_resnet_deeplab_backbone"]


class DeepLabStem(CNNBlockBase):
    """Three 3x3 convolutions, the first of stride 2, and 3x3 max pooling of stride 2.

    Args:
        in_channels: of the image.
        out_channels: of the output; the first two convolutions have half as many.
        norm: see `detectron2.layers.get_norm`.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 128, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        half = out_channels // 2
        self.conv1 = _conv3x3(in_channels, half, norm, stride=2)
        self.conv2 = _conv3x3(half, half, norm)
        self.conv3 = _conv3x3(half, out_channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / 4, W / 4)."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu_(conv(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def _conv3x3(in_channels: int, out_channels: int, norm: Norm, stride: int = 1) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=False,
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_msra_fill(conv)
    return conv


_STEMS: dict[str, type[CNNBlockBase]] = {"basic": BasicStem, "deeplab": DeepLabStem}


@BACKBONE_REGISTRY.register()
def build_resnet_deeplab_backbone(cfg: Any, input_shape: ShapeSpec) -> ResNet:
    """The ResNet of ``MODEL.RESNETS`` with DeepLab's keys, and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: the keys contradict each other.
    """
    return _resnet(
        in_channels=input_shape.channels,
        **read_arguments(cfg, RESNET),
        **read_arguments(cfg, DEEPLAB_BACKBONE),
    )


def _resnet(
    *,
    in_channels: int,
    norm: Norm,
    stem_type: str,
    stem_out_channels: int,
    out_features: Sequence[str],
    freeze_at: int,
    res4_dilation: int,
    res5_dilation: int,
    res5_multi_grid: Sequence[int],
    **options: Any,
) -> ResNet:
    if stem_type not in _STEMS:
        raise ValueError(f"MODEL.RESNETS.STEM_TYPE is {stem_type!r}; use one of {sorted(_STEMS)}.")
    _check_dilations(options["depth"], res4_dilation, res5_dilation)
    stem = _STEMS[stem_type](in_channels, stem_out_channels, norm)
    # Planned without dilation; the two last stages are changed below.
    plans = plan_stages(stem_out_channels=stem_out_channels, res5_dilation=1, **options)
    plans[2] = _dilated(plans[2], res4_dilation, [1] * plans[2].num_blocks)
    plans[3] = _dilated(plans[3], res5_dilation, res5_multi_grid)
    return resnet_of_plans(stem, plans, norm=norm, out_features=out_features, freeze_at=freeze_at)


def _check_dilations(depth: int, res4_dilation: int, res5_dilation: int) -> None:
    if depth in BASIC_DEPTHS:
        raise ValueError(
            f"MODEL.RESNETS.DEPTH is {depth}, whose blocks have no dilation; "
            "build_resnet_deeplab_backbone needs 50, 101 or 152."
        )
    for stage, dilation, allowed in (("4", res4_dilation, (1, 2)), ("5", res5_dilation, (1, 2, 4))):
        if dilation not in allowed:
            raise ValueError(
                f"MODEL.RESNETS.RES{stage}_DILATION is {dilation}; use one of {list(allowed)}."
            )
    if res4_dilation == 2 and res5_dilation != 4:
        raise ValueError(
            f"MODEL.RESNETS.RES4_DILATION is 2, which needs RES5_DILATION 4, not {res5_dilation}: "
            "res5 sees the map that res4 left twice as large."
        )


def _dilated(plan: StagePlan, dilation: int, multi_grid: Sequence[int]) -> StagePlan:
    """The stage with dilated blocks; where it is dilated it keeps the resolution of its input.

    Args:
        multi_grid: factor of each block's dilation ("Rethinking Atrous Convolution for Semantic
            Image Segmentation", section 3.2.1).
    """
    if len(multi_grid) != plan.num_blocks:
        raise ValueError(
            f"MODEL.RESNETS.RES5_MULTI_GRID is {list(multi_grid)}; give one number for each of the "
            f"{plan.num_blocks} blocks of res5."
        )
    arguments = {key: value for key, value in plan.arguments.items() if key != "dilation"}
    arguments["dilation_per_block"] = [dilation * factor for factor in multi_grid]
    if dilation > 1:
        arguments["stride_per_block"] = [1] * plan.num_blocks
    return plan._replace(arguments=arguments)
