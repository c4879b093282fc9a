"""Whether PyTorch's FX tracer is running, for code that has to check a tensor's value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.fx._symbolic_trace as _symbolic_trace

__all__ = ["assert_fx_safe", "is_fx_tracing", "is_fx_tracing_legacy"]

_MODULE_CALL = torch.nn.Module.__call__

# Where torch has both, its `is_fx_tracing` prints a warning in each process.
_is_tracing: Callable[[], bool] = getattr(
    _symbolic_trace, "is_fx_symbolic_tracing", _symbolic_trace.is_fx_tracing
)


def is_fx_tracing_legacy() -> bool:
    """Whether ``torch.nn.Module.__call__`` is replaced by a tracer's wrapper right now."""
    return torch.nn.Module.__call__ is not _MODULE_CALL


def is_fx_tracing() -> bool:
    """Whether a symbolic FX trace is running."""
    return _is_tracing()


def assert_fx_safe(condition: bool | str, message: str) -> torch.Tensor:
    """Check a condition, unless a tracer is running and its value is not known.

    Args:
        condition: a bool, or a Python expression over the local variables of the caller (a
            string is not evaluated at all while tracing).
        message: text of the AssertionError.

    Returns:
        (1,) float32: one if the check ran and passed, zero if it was left out.

    Raises:
        AssertionError: the condition is false.
    """
    if torch.jit.is_scripting() or is_fx_tracing():
        return torch.zeros(1)
    holds = _evaluate_for_caller(condition) if isinstance(condition, str) else condition
    if not holds:
        raise AssertionError(message)
    return torch.ones(1)


def _evaluate_for_caller(expression: str) -> Any:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None and frame.f_back.f_back is not None
    caller = frame.f_back.f_back
    # The expression is written in the calling source file: it is code of the same author.
    return eval(expression, caller.f_globals, caller.f_locals)
