"""Parts of models whose convolutions are fused beyond a single layer, for inference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.engine.inference.convolutions import FusedConv2d
from detectron2.engine.inference.prepared import Faster, Prepared, runs_prepared, state_of
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead

__all__ = [
    "FusedBasicBlock",
    "FusedBasicStem",
    "FusedBottleneckBlock",
    "FusedFPN",
    "FusedRPNHead",
    "FusedStage",
]


def _all_fold(module: nn.Module) -> bool:
    """Whether the block may run fused: every convolution of it is, without a norm left over."""
    return runs_prepared(module) and all(
        isinstance(conv, FusedConv2d)
        and conv.folds_everything()
        and conv.activation is None
        and not _has_hooks(conv)
        for conv in module.children()
    )


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody listens to what goes into the module or comes out of it, or replaced its
    ``forward``."""
    listened_to = module._forward_hooks or module._forward_pre_hooks
    return bool(listened_to) or "forward" in module.__dict__


class FusedBasicBlock(Faster, BasicBlock):
    """A `BasicBlock` that adds its shortcut and clips within the last convolution."""

    conv1: FusedConv2d
    conv2: FusedConv2d
    shortcut: FusedConv2d | None

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x) if _all_fold(self) else super().forward(x)

    def run(self, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """The block, fused; with `overwrite` the output may be written over `x`."""
        shortcut = x if self.shortcut is None else self.shortcut.run(x)
        out = self.conv1.run(x, relu=True)
        overwrite = overwrite or shortcut is not x
        return self.conv2.run(out, relu=True, add=shortcut, overwrite=overwrite)


class FusedBottleneckBlock(Faster, BottleneckBlock):
    """A `BottleneckBlock` that adds its shortcut and clips within the last convolution."""

    conv1: FusedConv2d
    conv2: FusedConv2d
    conv3: FusedConv2d
    shortcut: FusedConv2d | None

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x) if _all_fold(self) else super().forward(x)

    def run(self, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """The block, fused; with `overwrite` the output may be written over `x`."""
        shortcut = x if self.shortcut is None else self.shortcut.run(x)
        out = self.conv1.run(x, relu=True)
        out = self.conv2.run(out, relu=True)
        overwrite = overwrite or shortcut is not x
        return self.conv3.run(out, relu=True, add=shortcut, overwrite=overwrite)


class FusedStage(Faster, nn.Sequential):
    """Blocks one after another, each of which writes over what only it reads."""

    def become_plain(self) -> None:
        # Slices are of the class of the whole, without what `speed_up` wrote down.
        self.__dict__.setdefault("_class_before", nn.Sequential)
        super().become_plain()

    def forward(self, x: Tensor) -> Tensor:
        is_private = False  # the first input belongs to the caller
        for block in self:
            if isinstance(block, _FUSED_BLOCKS) and _all_fold(block) and not _has_hooks(block):
                x = block.run(x, overwrite=is_private)
                is_private = True
            else:
                x = block(x)
                is_private = False
        return x


_FUSED_BLOCKS = (FusedBasicBlock, FusedBottleneckBlock)


class FusedBasicStem(Faster, BasicStem):
    """A `BasicStem` that clips within its convolution."""

    conv1: FusedConv2d

    def forward(self, x: Tensor) -> Tensor:
        if not _all_fold(self):
            return super().forward(x)
        return F.max_pool2d(self.conv1.run(x, relu=True), kernel_size=3, stride=2, padding=1)


class FusedFPN(Faster, FPN):
    """An `FPN` that adds the coarser map in place, without an upsampled copy of it."""

    def _fuse(self, lateral: Tensor, coarser: Tensor | None) -> Tensor:
        is_dense = lateral.is_contiguous(memory_format=torch.channels_last)
        if coarser is None or not (runs_prepared(self) and is_dense):
            return super()._fuse(lateral, coarser)
        images, channels, height, width = coarser.shape
        # (N, h, 2, w, 2, C): every cell of the coarser map meets its four cells.
        cells = lateral.permute(0, 2, 3, 1).view(images, height, 2, width, 2, channels)
        cells += coarser.permute(0, 2, 3, 1).view(images, height, 1, width, 1, channels)
        return lateral.div_(2) if self._fuse_type == "avg" else lateral


class FusedRPNHead(Prepared, StandardRPNHead):
    """A `StandardRPNHead` that reads its hidden map once for both predictions."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        if not runs_prepared(self):
            return super().forward(features)
        weight, bias = self.prepared()
        num_anchors = self.objectness_logits.out_channels
        logits, deltas = [], []
        for feature in features:
            hidden = self.conv(feature)
            hidden = hidden.contiguous(memory_format=torch.channels_last)
            out = F.conv2d(hidden, weight.to(hidden.dtype), bias.to(hidden.dtype)).float()
            logits.append(out[:, :num_anchors])
            deltas.append(out[:, num_anchors:])
        return logits, deltas

    def weights_state(self) -> object:
        predictors = (self.objectness_logits, self.anchor_deltas)
        return state_of(*(x for conv in predictors for x in conv._parameters.values()))

    @torch.no_grad()
    def prepare(self) -> tuple[Tensor, Tensor]:
        predictors = (self.objectness_logits, self.anchor_deltas)
        weight = torch.cat([conv.weight for conv in predictors])
        weight = weight.contiguous(memory_format=torch.channels_last)
        biases = [conv.bias for conv in predictors]
        return weight, torch.cat([bias for bias in biases if bias is not None])
