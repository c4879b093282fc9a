"""Backbones for TorchScript: a trace inside of a module that TorchScript can read."""

# TorchScript reads the annotations of this module: no `from __future__ import annotations`.

import torch
from torch import Tensor, nn

from detectron2.export.tracing import quiet_tracer

__all__ = ["ScriptableBackbone", "prepare_backbone"]

# Any size that every stage divides; a trace of convolutions holds for all of them.
_SIDE = 128


class _Flat(nn.Module):
    """A backbone that returns a tuple in the order of `names`."""

    def __init__(self, backbone: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = names

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(x)
        return tuple(features[name] for name in self.names)


class ScriptableBackbone(nn.Module):
    """Feature maps by name, from a traced backbone in evaluation mode."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.names = list(backbone.output_shape())
        example = torch.zeros(1, channels, _SIDE, _SIDE).to(next(backbone.parameters()).device)
        with torch.no_grad(), quiet_tracer():
            self.traced = torch.jit.trace(
                _Flat(backbone, self.names).eval(), (example,), check_trace=False
            )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.traced(x)
        features: dict[str, Tensor] = {}
        for index, name in enumerate(self.names):
            features[name] = maps[index]
        return features


def prepare_backbone(backbone: nn.Module) -> nn.Module:
    """What `torch.jit.script` compiles in place of a backbone; shares its parameters.

    Raises:
        RuntimeError: the backbone is in training mode.
    """
    if backbone.training:
        raise RuntimeError("Only support exporting models in evaluation mode to torchscript.")
    source = getattr(backbone, "bottom_up", backbone)  # a pyramid lists its own layers first
    first = next(m for m in source.modules() if isinstance(m, nn.Conv2d))
    return ScriptableBackbone(backbone, first.in_channels)
