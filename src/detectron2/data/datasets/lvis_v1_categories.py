"""``LVIS_CATEGORIES``: the 1203 categories of LVIS v1, from the dataset's own files."""

from __future__ import annotations

from typing import Any

from detectron2.data.datasets._lvis_categories import read_categories

__all__ = ["LVIS_CATEGORIES"]

LVIS_CATEGORIES: list[dict[str, Any]]
"""By id: "id" (from 1 on), "name", "synonyms", "synset", "def", "frequency" and counts."""


def __getattr__(name: str) -> Any:
    if name == "LVIS_CATEGORIES":
        return list(
            read_categories(
                "lvis/lvis_v1_image_info_test_dev.json",
                "lvis/lvis_v1_val.json",
                "lvis/lvis_v1_train.json",
            )
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
