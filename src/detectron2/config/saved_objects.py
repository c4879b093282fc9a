"""Targets that stand for Python objects in saved lazy configs.

A YAML file cannot hold a function or a class. `LazyConfig.save` writes a description with one of
these targets instead, so reading the file runs nothing and `instantiate` gives the object back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.utils.registry import locate

__all__ = ["named_object", "partial_call", "unsaved_object"]


def named_object(name: str) -> Any:
    """The class, function or constant at a dotted path.

    Raises:
        ImportError: the path leads nowhere.
    """
    return locate(name)


def partial_call(
    function: Callable[..., Any],
    arguments: Sequence[Any] = (),
    keywords: Mapping[str, Any] | None = None,
) -> functools.partial[Any]:
    """``functools.partial(function, *arguments, **keywords)``."""
    return functools.partial(function, *arguments, **(keywords or {}))


def unsaved_object(description: str) -> Any:
    """Stands for an object without a dotted path, such as a lambda.

    Raises:
        ValueError: always; the object is only in the original config file.
    """
    raise ValueError(
        f"The saved config had {description} here, which text cannot hold. Load the original .py "
        "config instead, or set this entry by hand."
    )
