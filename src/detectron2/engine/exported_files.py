"""Telling an exported model from a config, without loading anything that exports."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["EXPORTED_SUFFIXES", "is_exported"]

EXPORTED_SUFFIXES = (".ts", ".torchscript", ".onnx", ".xml", ".pt2", ".pte")


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a file that `detectron2 export` writes."""
    return Path(path).suffix.lower() in EXPORTED_SUFFIXES
