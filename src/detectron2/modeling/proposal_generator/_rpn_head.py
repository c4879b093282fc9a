"""The convolutions of the Region Proposal Network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import proposal_generator as keys
from detectron2.config.mapping import read_arguments
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.utils.registry import Registry, registered

__all__ = ["RPN_HEAD_REGISTRY", "StandardRPNHead", "build_rpn_head"]

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = """
RPN heads by name. An entry is called as ``entry(cfg, input_shape)`` with one ShapeSpec per feature
map. The module it returns maps the L feature maps (N, C, Hl, Wl) to two lists of L tensors:
objectness logits (N, A, Hl, Wl) and anchor deltas (N, A * box_dim, Hl, Wl).
"""


def build_rpn_head(cfg: Any, input_shape: list[ShapeSpec]) -> nn.Module:
    """The head that `cfg.MODEL.RPN.HEAD_NAME` names."""
    return registered(RPN_HEAD_REGISTRY, cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions, then 1x1 ones for objectness and deltas (Faster R-CNN, section 3.1).

    All levels share the weights.

    Args:
        in_channels: of every feature map.
        num_anchors: per cell.
        box_dim: numbers per box: 4, or 5 for rotated boxes.
        conv_dims: output channels of each 3x3 convolution; -1 keeps the number of its input.

    Raises:
        ValueError: `conv_dims` is empty or has a number that is not positive and not -1.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int,
        box_dim: int = 4,
        conv_dims: Sequence[int] = (-1,),
    ) -> None:
        super().__init__()
        if not conv_dims or any(dim != -1 and dim <= 0 for dim in conv_dims):
            raise ValueError(
                f"RPN head conv_dims is {list(conv_dims)}; give at least one number of channels, "
                "each positive or -1."
            )
        convs = []
        for dim in conv_dims:
            out_channels = in_channels if dim == -1 else dim
            convs.append(
                Conv2d(in_channels, out_channels, kernel_size=3, padding=1, activation=F.relu_)
            )
            in_channels = out_channels
        if len(convs) == 1:
            self.conv: nn.Module = convs[0]
        else:
            self.conv = nn.Sequential()
            for index, conv in enumerate(convs):
                self.conv.add_module(f"conv{index}", conv)
        self.objectness_logits = nn.Conv2d(in_channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(in_channels, num_anchors * box_dim, kernel_size=1)
        for layer in (*convs, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        anchor_generator = build_anchor_generator(cfg, input_shape)
        channels = {shape.channels for shape in input_shape}
        num_anchors = set(anchor_generator.num_anchors)
        if len(channels) > 1 or len(num_anchors) > 1:
            raise ValueError(
                "The RPN head shares its weights between levels, so they need equal channels and "
                f"anchors per cell, not {sorted(channels)} and {sorted(num_anchors)}."
            )
        return {
            **read_arguments(cfg, keys.RPN_HEAD),
            "in_channels": channels.pop(),
            "num_anchors": num_anchors.pop(),
            "box_dim": anchor_generator.box_dim,
        }

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict on every level.

        Args:
            features: per level, (N, in_channels, H, W).

        Returns:
            per level, objectness logits (N, A, H, W); and deltas (N, A * box_dim, H, W).
        """
        hidden = [self.conv(feature) for feature in features]
        logits = [self.objectness_logits(x) for x in hidden]
        return logits, [self.anchor_deltas(x) for x in hidden]
