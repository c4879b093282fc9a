"""Which blocks a ResNet of a depth and of given options is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["BASIC_DEPTHS", "StagePlan", "blocks_per_stage", "plan_stages"]

_BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BASIC_DEPTHS = (18, 34)  # two 3x3 convolutions per block; deeper ones have bottlenecks


class StagePlan(NamedTuple):
    """One stage: kind of its blocks ("basic", "bottleneck", "deform"), number and arguments."""

    kind: str
    num_blocks: int
    arguments: dict[str, Any]


def blocks_per_stage(depth: int) -> tuple[int, ...]:
    """Blocks of res2 to res5.

    Raises:
        ValueError: there is no ResNet of this depth.
    """
    if depth not in _BLOCKS_PER_STAGE:
        raise ValueError(f"There is no ResNet of depth {depth}; use {list(_BLOCKS_PER_STAGE)}.")
    return _BLOCKS_PER_STAGE[depth]


def plan_stages(
    *,
    depth: int,
    num_groups: int,
    width_per_group: int,
    stem_out_channels: int,
    res2_out_channels: int,
    stride_in_1x1: bool,
    res5_dilation: int,
    deform_on_per_stage: Sequence[bool],
    deform_modulated: bool,
    deform_num_groups: int,
) -> list[StagePlan]:
    """Plans of res2 to res5. The arguments are the keys of ``MODEL.RESNETS``.

    Raises:
        ValueError: the arguments contradict each other.
    """
    if res5_dilation not in (1, 2):
        raise ValueError(f"MODEL.RESNETS.RES5_DILATION is {res5_dilation}; use 1 or 2.")
    is_basic = depth in BASIC_DEPTHS
    if is_basic:
        _require(depth, "RES2_OUT_CHANNELS", res2_out_channels, 64)
        _require(depth, "RES5_DILATION", res5_dilation, 1)
        _require(depth, "NUM_GROUPS", num_groups, 1)
        _require(depth, "DEFORM_ON_PER_STAGE", any(deform_on_per_stage), False)
    plans = []
    in_channels, out_channels = stem_out_channels, res2_out_channels
    for index, num_blocks in enumerate(blocks_per_stage(depth)):
        dilation = res5_dilation if index == 3 else 1
        # A dilated res5 keeps the resolution of res4.
        first_stride = 1 if index == 0 or dilation == 2 else 2
        kind = "basic" if is_basic else "deform" if deform_on_per_stage[index] else "bottleneck"
        arguments: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "stride_per_block": [first_stride] + [1] * (num_blocks - 1),
        }
        if not is_basic:
            arguments |= {
                "bottleneck_channels": num_groups * width_per_group * 2**index,
                "stride_in_1x1": stride_in_1x1,
                "dilation": dilation,
                "num_groups": num_groups,
            }
        if kind == "deform":
            arguments["deform_modulated"] = deform_modulated
            arguments["deform_num_groups"] = deform_num_groups
        plans.append(StagePlan(kind, num_blocks, arguments))
        in_channels, out_channels = out_channels, out_channels * 2
    return plans


def _require(depth: int, key: str, value: Any, needed: Any) -> None:
    if value != needed:
        raise ValueError(
            f"MODEL.RESNETS.{key} is {value}; ResNet-{depth} has basic blocks, which need {needed}."
        )
