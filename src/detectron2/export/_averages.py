"""Averages over windows (`detectron2.layers.aspp`) in graphs for maps of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detectron2.export._extremes import traceable_max, traceable_min

__all__ = ["view_of_averages"]


def view_of_averages(
    x: Tensor, window: tuple[int, int], project: Callable[[Tensor], Tensor]
) -> Tensor:
    """`aspp.view_of_averages` without a choice between the window and a smaller map.

    Windows have one size, and maps zeros beside them. The number of places that a window has is no
    size of a tensor, as `torch.export` cannot prove that there is always one: windows begin at
    every cell, and the interpolation leaves out those that reach over the edge of a larger map.
    """
    sides = x.shape[-2:]
    columns = F.avg_pool2d(F.pad(x, (0, window[1] - 1, 0, window[0] - 1)), (window[0], 1), stride=1)
    averages = F.avg_pool2d(columns, (1, window[1]), stride=1)
    shares = [traceable_min(whole, side) / whole for whole, side in zip(window, sides)]
    view = project(averages / (shares[0] * shares[1]))
    for axis, whole, side in zip((2, 3), window, sides):
        view = _stretched(view, axis, side, traceable_max(side - whole, 0) + 1)
    return view


def _stretched(maps: Tensor, axis: int, side: Any, count: Any) -> Tensor:
    """The first `count` cells of an axis, interpolated to `side` as `F.interpolate` would."""
    places = torch.arange(side, device=maps.device, dtype=maps.dtype)
    places = ((places + 0.5) * (count / side) - 0.5).clamp(min=0)
    before = places.to(torch.int64)
    after = (before + 1).clamp(max=count - 1)
    share = (places - before).unsqueeze(-1) if axis == 2 else places - before
    first, second = maps.index_select(axis, before), maps.index_select(axis, after)
    return first + (second - first) * share
