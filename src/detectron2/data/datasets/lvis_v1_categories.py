"""``LVIS_CATEGORIES``: the 1203 categories of LVIS v1."""

from __future__ import annotations

from typing import Any

from detectron2.data.datasets._lvis_categories import read_categories

__all__ = ["LVIS_CATEGORIES"]

LVIS_CATEGORIES: list[dict[str, Any]]
"""By id, with the entries that `read_categories` lists."""


def __getattr__(name: str) -> Any:
    if name == "LVIS_CATEGORIES":
        globals()[name] = read_categories("v1")
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
