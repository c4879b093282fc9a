"""Blocks of models in training on a CPU, their convolutions fused beyond single layers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.engine.training_convolutions import TrainingConv2d, fits, has_listeners
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock

__all__ = ["speed_up_convolutions"]


def _runs_fused(block: nn.Module, x: Tensor) -> bool:
    return all(
        isinstance(conv, TrainingConv2d)
        and conv.activation is None
        and conv.runs_fused(x)
        and not has_listeners(conv)
        for conv in block.children()
    )


class TrainingBasicBlock(BasicBlock):
    """A `BasicBlock` that adds its shortcut and clips within the last convolution."""

    conv1: TrainingConv2d
    conv2: TrainingConv2d
    shortcut: TrainingConv2d | None

    def forward(self, x: Tensor) -> Tensor:
        if not _runs_fused(self, x):
            return super().forward(x)
        shortcut = x if self.shortcut is None else self.shortcut.run(x)
        return self.conv2.run(self.conv1.run(x, relu=True), relu=True, add=shortcut)


class TrainingBottleneckBlock(BottleneckBlock):
    """A `BottleneckBlock` that adds its shortcut and clips within the last convolution."""

    conv1: TrainingConv2d
    conv2: TrainingConv2d
    conv3: TrainingConv2d
    shortcut: TrainingConv2d | None

    def forward(self, x: Tensor) -> Tensor:
        if not _runs_fused(self, x):
            return super().forward(x)
        shortcut = x if self.shortcut is None else self.shortcut.run(x)
        out = self.conv1.run(x, relu=True)
        out = self.conv2.run(out, relu=True)
        return self.conv3.run(out, relu=True, add=shortcut)


class TrainingBasicStem(BasicStem):
    """A `BasicStem` that clips within its convolution."""

    conv1: TrainingConv2d

    def forward(self, x: Tensor) -> Tensor:
        if not _runs_fused(self, x):
            return super().forward(x)
        return F.max_pool2d(self.conv1.run(x, relu=True), kernel_size=3, stride=2, padding=1)


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: TrainingBasicBlock,
    BottleneckBlock: TrainingBottleneckBlock,
    BasicStem: TrainingBasicStem,
}


def speed_up_convolutions(model: nn.Module) -> int:
    """Let the convolutions of a model run fused, in place; see `TrainingConv2d`.

    Names, parameters and, but for rounding (2e-5 of the largest value), numbers stay.

    Returns:
        How many there are.
    """
    count = 0
    for module in model.modules():
        if fits(module):
            module.__class__ = TrainingConv2d
            count += 1
        module.__class__ = _FASTER.get(type(module), type(module))
    return count
