"""Names of the zoo without folder, length of the schedule and ending."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

__all__ = ["full_name"]

_LENGTHS = ("_3x", "_1x", "")
"""Ends of names; longer trained weights are the better start."""


def full_name(short: str, names: Sequence[str]) -> str | None:
    """The config that ``faster_rcnn_R_50_FPN`` stands for.

    Args:
        short: the name of a file of the zoo without folder and ending, perhaps without its
            schedule: then the longest one. Configs for COCO come before those for other data.
        names: of the zoo.

    Returns:
        None if no config is called like this.
    """
    candidates = sorted(names, key=lambda name: not name.startswith("COCO-"))
    for length in _LENGTHS:
        for name in candidates:
            if PurePosixPath(name).stem == short + length and not short.startswith("Base-"):
                return name
    return None
