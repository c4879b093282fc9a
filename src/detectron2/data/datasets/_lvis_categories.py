"""The categories of LVIS, which ship as data: see the head of ``lvis_categories.json``."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

__all__ = ["read_categories"]

_FILE = Path(__file__).with_name("lvis_categories.json")


@functools.lru_cache(maxsize=1)
def _content() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))


def read_categories(version: str) -> list[dict[str, Any]]:
    """Categories of LVIS by id; a new list of new dictionaries.

    Args:
        version: "v1" for 1203 categories with "id" (from 1 on), "name", "synonyms", "synset",
            "def", "frequency" (r, c or f: in up to 10, up to 100, more training images),
            "image_count" and "instance_count"; "v0.5" for 1230 with "id", "name" and "synonyms",
            which is the name alone.
    """
    if version == "v0.5":
        names = _content()[version]
        return [{"id": i, "name": name, "synonyms": [name]} for i, name in enumerate(names, 1)]
    categories = _content()[version]
    return [{**category, "synonyms": list(category["synonyms"])} for category in categories]
