"""``LVIS_CATEGORY_IMAGE_COUNT``: how many images of LVIS v1's training set show each category."""

from __future__ import annotations

from typing import Any

from detectron2.data.datasets._lvis_categories import read_categories

__all__ = ["LVIS_CATEGORY_IMAGE_COUNT"]

LVIS_CATEGORY_IMAGE_COUNT: list[dict[str, int]]
"""By id: "id" (from 1 on) and "image_count"."""


def __getattr__(name: str) -> Any:
    if name == "LVIS_CATEGORY_IMAGE_COUNT":
        globals()[name] = [
            {"id": category["id"], "image_count": category["image_count"]}
            for category in read_categories("v1")
        ]
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
