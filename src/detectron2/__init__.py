"""Detection, segmentation, keypoints and rotated boxes on PyTorch.

Subpackages load when they are first touched: ``import detectron2`` and then
``detectron2.layers.Conv2d`` works, and importing the package alone stays cheap.
"""

import importlib
from typing import Any

from detectron2.version import __version__

__all__ = ["__version__"]

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
