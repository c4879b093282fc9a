"""Weights for three colours in a model for images of another number of channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["adapt_input_channels", "describe"]

COLOURS = 3


def adapt_input_channels(weights: dict[str, Any], model: nn.Module) -> dict[str, tuple[int, int]]:
    """Fit the first convolution of `weights`, in place, to the channels of the model's images.

    One channel gets the sum over the colours, so that a grey image gives what it gave as a
    colour image with three equal channels. More channels than three begin with the colours; each
    further one gets their mean; all are scaled by 3 / channels, which keeps the size of the sum.
    Two channels are the first two colours, scaled.

    Args:
        weights: of a checkpoint, with the names of the model.
        model: how many channels its images have is the length of its `pixel_mean`.

    Returns:
        Name of what was adapted -> channels before and after. Empty for a model of colours.
    """
    mean = getattr(model, "pixel_mean", None)
    channels = len(mean) if isinstance(mean, Tensor) else COLOURS
    if channels == COLOURS:
        return {}
    adapted = {}
    for name, ours in model.state_dict().items():
        theirs = weights.get(name)
        if theirs is None or not _differ_in_channels(theirs, ours, channels):
            continue
        weights[name] = _adapted(torch.as_tensor(theirs), channels)
        adapted[name] = (COLOURS, channels)
    return adapted


def _differ_in_channels(theirs: Any, ours: Tensor, channels: int) -> bool:
    """Whether both are a convolution of images, one of colours and the other of channels."""
    before, after = tuple(theirs.shape), tuple(ours.shape)
    return (
        len(before) == len(after) == 4
        and (before[1], after[1]) == (COLOURS, channels)
        and before[0] == after[0]
        and before[2:] == after[2:]
    )


def _adapted(weight: Tensor, channels: int) -> Tensor:
    """(O, channels, h, w) of an (O, 3, h, w) weight."""
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    extra = weight.mean(dim=1, keepdim=True).expand(-1, max(channels - COLOURS, 0), -1, -1)
    return torch.cat([weight[:, :channels], extra], dim=1) * (COLOURS / channels)


def describe(adapted: Mapping[str, tuple[int, int]]) -> str:
    """A sentence for the log."""
    changes = ", ".join(f"{name} ({a} -> {b} channels)" for name, (a, b) in adapted.items())
    return (
        f"The checkpoint was trained on images of {COLOURS} channels, the model takes another "
        f"number (PIXEL_MEAN): the first convolution is adapted: {changes}."
    )
