"""Answers for code that asks for the compiled extension of older Detectron2 releases.

There is none: kernels are Python and are compiled when they first run. Importing this module
tells that the package is installed; the functions tell what runs the kernels.
"""

from typing import NoReturn

import torch

__all__ = ["get_compiler_version", "get_cuda_version", "has_cuda"]


def get_compiler_version() -> str:
    """What compiles the CPU kernels, such as ``"Numba 0.65.0"``."""
    from importlib.metadata import version

    return f"Numba {version('numba')}"


def get_cuda_version() -> str:
    """The CUDA version of the installed PyTorch, or ``"not available"``."""
    return torch.version.cuda or "not available"


def has_cuda() -> bool:
    """Whether the installed PyTorch is built for CUDA, so that GPU kernels can run."""
    return torch.version.cuda is not None


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        f"detectron2._C has no {name!r}: there is no compiled extension. Operators are functions "
        "of detectron2.layers and detectron2.ops."
    )
