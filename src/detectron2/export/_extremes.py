"""`min` and `max` of sizes that are variables of a graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["traceable_max", "traceable_min"]


def _extreme(
    builtin: Callable[..., Any],
    of_tensors: Callable[[Tensor, Tensor], Tensor],
    of_symbols: Callable[[Any, Any], Any],
) -> Callable[..., Any]:
    """`min` or `max` that stays a variable of the graph where a size takes part."""

    def extreme(*args: Any, **kwargs: Any) -> Any:
        values = list(args[0]) if len(args) == 1 else list(args)
        if any(isinstance(value, torch.SymInt) for value in values):
            return functools.reduce(of_symbols, values)
        if kwargs or not any(isinstance(value, Tensor) for value in values):
            return builtin(values, **kwargs)
        result = torch.as_tensor(values[0])
        for value in values[1:]:
            result = of_tensors(result, torch.as_tensor(value))
        return result

    return extreme


traceable_min = _extreme(min, torch.minimum, torch.sym_min)
traceable_max = _extreme(max, torch.maximum, torch.sym_max)
