"""From the features of a box to the vector that its class and position are read from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fvcore.nn import weight_init
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.roi_heads import BOX_HEAD
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.utils.registry import Registry, registered

__all__ = ["ROI_BOX_HEAD_REGISTRY", "FastRCNNConvFCHead", "build_box_head"]

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = """
Heads on the features of one box, looked up by ``cfg.MODEL.ROI_BOX_HEAD.NAME`` and called as
``entry(cfg, input_shape)``. An entry maps (R, C, h, w) to (R, F) or to (R, C', h, w), and its
`output_shape` says which.
"""


def build_box_head(cfg: Any, input_shape: ShapeSpec) -> nn.Module:
    """The head named by ``cfg.MODEL.ROI_BOX_HEAD.NAME``."""
    return registered(ROI_BOX_HEAD_REGISTRY, cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions `conv1`, `conv2`, ..., then linear layers `fc1`, `fc2`, ..., with ReLU."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        conv_norm: Any = "",
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the features of a box.
            conv_dims: output channels of each convolution.
            fc_dims: outputs of each linear layer.
            conv_norm: normalisation after each convolution, as `get_norm` takes it.
        """
        super().__init__()
        if not conv_dims and not fc_dims:
            raise ValueError("FastRCNNConvFCHead needs a layer: conv_dims and fc_dims are empty.")
        channels = input_shape.channels
        for k, width in enumerate(conv_dims, start=1):
            conv = Conv2d(
                channels,
                width,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, width),
                activation=nn.ReLU(inplace=True),
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"conv{k}", conv)
            channels = width
        self._output_shape = ShapeSpec(
            channels=channels, height=input_shape.height, width=input_shape.width
        )
        if fc_dims:
            self.add_module("flatten", nn.Flatten())
            self._append_linear_layers(fc_dims)

    def _append_linear_layers(self, sizes: Sequence[int]) -> None:
        shape = self._output_shape
        inputs = math.prod((shape.channels, shape.height, shape.width))
        for k, outputs in enumerate(sizes, start=1):
            linear = nn.Linear(inputs, outputs)
            weight_init.c2_xavier_fill(linear)
            self.add_module(f"fc{k}", linear)
            self.add_module(f"fc_relu{k}", nn.ReLU(inplace=True))
            inputs = outputs
        self._output_shape = ShapeSpec(channels=inputs)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        head = lookup(cfg, "MODEL.ROI_BOX_HEAD")
        return {
            "input_shape": input_shape,
            "conv_dims": [head.CONV_DIM] * head.NUM_CONV,
            "fc_dims": [head.FC_DIM] * head.NUM_FC,
            **read_arguments(cfg, BOX_HEAD),
        }

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, h, w) features of R boxes to (R, F), or (R, C', h, w) without linear layers."""
        for layer in self:
            x = layer(x)
        return x

    @property
    def output_shape(self) -> ShapeSpec:
        """`channels` F, or `channels`, `height` and `width` without linear layers."""
        return self._output_shape
