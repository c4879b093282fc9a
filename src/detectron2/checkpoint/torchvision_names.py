"""ResNet weights of torchvision and of programs that use its names (MoCo, timm, ...)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["convert_torchvision_names", "has_torchvision_names"]

_STEM = re.compile(r"^(conv1|bn1)\.")
_BLOCK = re.compile(r"^layer(\d)\.(\d+)\.(.+)$")


def has_torchvision_names(names: Iterable[str]) -> bool:
    """Whether these are the tensors of a torchvision ResNet."""
    present = set(names)
    return "conv1.weight" in present and "layer1.0.conv1.weight" in present


def convert_torchvision_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The same tensors under the names of our ResNet.

    ``layer1.0.bn2.weight`` becomes ``res2.0.conv2.norm.weight``, ``bn1.weight`` becomes
    ``stem.conv1.norm.weight`` and ``layer2.0.downsample.0.weight`` becomes
    ``res3.0.shortcut.weight``; the classifier stays ``fc``. These weights expect RGB images with
    torchvision's mean and deviation, and the stride in the 3x3 convolution
    (``MODEL.RESNETS.STRIDE_IN_1X1: False``).
    """
    return {_convert(name): tensor for name, tensor in weights.items()}


def _convert(name: str) -> str:
    block = _BLOCK.match(name)
    if block:
        stage, index, rest = block.groups()
        rest = rest.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        return f"res{int(stage) + 1}.{index}.{_norm_under_convolution(rest)}"
    if _STEM.match(name):
        return f"stem.{_norm_under_convolution(name)}"
    return name


def _norm_under_convolution(name: str) -> str:
    return re.sub(r"^bn(\d)\.", r"conv\1.norm.", name)
