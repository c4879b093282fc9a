"""Questions about the installed PyTorch."""

from __future__ import annotations

import torch
from packaging.version import Version

__all__ = ["min_torch_version"]


def min_torch_version(min_version: str) -> bool:
    """Whether the installed PyTorch is at least `min_version`, a string such as ``"2.6"``.

    A pre-release or local build of a version (``2.6.0a0+git``) counts as that version.
    """
    return Version(Version(torch.__version__).base_version) >= Version(min_version)
