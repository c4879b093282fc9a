"""Where the files of the builtin datasets lie."""

from __future__ import annotations

import os

__all__ = ["datasets_root", "under"]


def datasets_root() -> str:
    """``$DETECTRON2_DATASETS``, or "datasets" below the current folder."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def under(root: str | None, path: str) -> str:
    """`path` below `root`; a None root is looked up now. An address (``s3://...``) stays."""
    if "://" in path:
        return path
    return os.path.join(datasets_root() if root is None else root, path)
