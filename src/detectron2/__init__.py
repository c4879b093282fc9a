"""Detection, segmentation, keypoints and rotated boxes on PyTorch.

Subpackages load when they are first touched: ``import detectron2`` and then
``detectron2.layers.Conv2d`` works, and importing the package alone stays cheap.
"""

import importlib
import os
from typing import Any

from detectron2.version import __version__

__all__ = ["__version__"]

# PyTorch asks Linux for each large tensor anew, 13,000 pages of 4 KB for one map of 55 MB; in pages
# of 2 MB a backbone on a CPU takes three quarters of the time. It looks at this variable once, when
# it first makes a tensor, so no function of ours would be early enough. "0" set by the user stays.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_SUBPACKAGES = frozenset(
    {
        "checkpoint",
        "config",
        "data",
        "engine",
        "evaluation",
        "export",
        "layers",
        "model_zoo",
        "modeling",
        "ops",
        "projects",
        "solver",
        "structures",
        "tracking",
        "utils",
    }
)


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "setup_environment":
        return importlib.import_module(f"{__name__}.utils.env").setup_environment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_SUBPACKAGES | set(globals()))
