"""The categories of LVIS, read from the annotation files of the dataset."""

from __future__ import annotations

import functools
import json
from typing import Any

from detectron2.data.datasets._root import under
from detectron2.utils.file_io import PathManager

__all__ = ["read_categories"]


@functools.lru_cache(maxsize=4)
def read_categories(*files: str) -> tuple[dict[str, Any], ...]:
    """ "categories" of the first of the files that exists, by id.

    Args:
        *files: below ``$DETECTRON2_DATASETS``, the smallest first.

    Raises:
        FileNotFoundError: none exists.
    """
    paths = [under(None, file) for file in files]
    for path in paths:
        if PathManager.isfile(path):
            with PathManager.open(path, "r", encoding="utf-8") as stream:
                categories = json.load(stream)["categories"]
            return tuple(sorted(categories, key=lambda category: category["id"]))
    raise FileNotFoundError(
        f"The categories of LVIS are read from one of its files, but none of {', '.join(paths)} "
        "exists. Download LVIS and set DETECTRON2_DATASETS to the folder that holds 'lvis'."
    )
