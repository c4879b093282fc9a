"""Ranges of inputs that training with TRAINING.QUANTIZATION learnt, by layer, for 8-bit files."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

__all__ = ["Ranges", "layer_called", "ranges_in", "scale_and_zero_point"]

# Path of a layer in its model to the lowest and the highest of its inputs.
Ranges = Mapping[str, tuple[float, float]]

LEVELS = 256


def ranges_in(saved: Mapping[str, Any]) -> Ranges:
    """Ranges that a checkpoint has beside its weights; none if it was not trained for integers."""
    ranges: Mapping[str, torch.Tensor] = saved.get("integer_ranges", {})
    return {name: (float(each[0]), float(each[1])) for name, each in ranges.items()}


def scale_and_zero_point(lowest: float, highest: float) -> tuple[float, int]:
    """Width of the 256 steps of a range, and the number of the step that is zero, 0 to 255."""
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    scale = max((highest - lowest) / (LEVELS - 1), torch.finfo(torch.float32).eps)
    return scale, min(max(round(-lowest / scale), 0), LEVELS - 1)


def layer_called(name: str, layers: Collection[str]) -> str | None:
    """Which layer an operation in a graph comes from.

    Args:
        name: of the operation, such as "/batched/backbone/res2/res2.0/conv1/Conv" in ONNX, which
            leaves out modules that are not called, or "batched/model/backbone/res2/0/conv1".
        layers: paths in the model, such as "backbone.res2.0.conv1".

    Returns:
        One of `layers`, or None.
    """
    # A module that is called once for each level has the number of the call behind its name.
    given = [re.sub(r"(_|@)\d+$", "", part) for part in name.split("/") if part]
    for layer in layers:
        parts = layer.split(".")
        if given[-len(parts) :] == parts:
            return layer
    given = [part for part in given if part != "batched"]
    while given:
        found = [layer for layer in layers if _is_behind(given, layer)]
        if found:
            return min(found, key=len)
        given.pop()  # the kind of the operation
    return None


def _is_behind(given: list[str], layer: str) -> bool:
    """Whether `given` are called modules on the path to a layer, which is the last of them."""
    parts: list[str] = []
    for part in layer.split("."):
        parts.append(f"{parts[-1]}.{part}" if part.isdigit() and parts else part)
    rest = iter(parts)
    return given[-1] == parts[-1] and all(part in rest for part in given)
