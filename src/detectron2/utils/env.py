"""The process around us: random seeds, versions, the user's own set-up module."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import random
import secrets
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from packaging.version import Version

__all__ = ["seed_all_rng"]

TORCH_VERSION: tuple[int, ...] = Version(torch.__version__).release[:2]
"""(major, minor) of the installed PyTorch."""

DOC_BUILDING = os.getenv("_DOC_BUILDING", "") not in ("", "0", "False", "false")
"""True while the documentation is built."""

_environment_is_set_up = False


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the generators of Python, NumPy and PyTorch (CPU and every GPU).

    Args:
        seed: a whole number; None draws one from the operating system and logs it.
    """
    if seed is None:
        seed = secrets.randbelow(2**31)
        logging.getLogger(__name__).info("Using a generated random seed %d", seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    # Read by processes that are started from here on; this one has its hash seed already.
    os.environ["PYTHONHASHSEED"] = str(seed % 2**32)


def setup_environment() -> None:
    """Prepare this process once; training scripts call it, importing detectron2 does not.

    ``DETECTRON2_DISABLE_CV2=1`` makes ``import cv2`` fail, otherwise its OpenCL is switched
    off (it starts GPU contexts in every data loading worker). ``DETECTRON2_ENV_MODULE`` names
    a module or a ``.py`` file whose ``setup_environment()`` is then called.
    """
    global _environment_is_set_up
    if _environment_is_set_up:
        return
    _environment_is_set_up = True
    if os.getenv("DETECTRON2_DISABLE_CV2", "0") not in ("", "0"):
        sys.modules["cv2"] = None  # type: ignore[assignment]
    else:
        os.environ.setdefault("OPENCV_OPENCL_RUNTIME", "disabled")
    custom = os.getenv("DETECTRON2_ENV_MODULE")
    if custom:
        setup_custom_environment(custom)


def setup_custom_environment(custom_module: str) -> None:
    """Import a module by name or by ``.py`` path and call its ``setup_environment()``.

    Raises:
        ValueError: the module has no such function.
    """
    if custom_module.endswith(".py"):
        module = _import_file("detectron2.utils.env.custom_module", custom_module)
    else:
        module = importlib.import_module(custom_module)
    setup = getattr(module, "setup_environment", None)
    if not callable(setup):
        raise ValueError(
            f"DETECTRON2_ENV_MODULE names {custom_module!r}, which has no function "
            "setup_environment(); define it there or unset the variable."
        )
    setup()


def _import_file(module_name: str, file_path: str, make_importable: bool = False) -> ModuleType:
    """Run a Python file as a module; `make_importable` also enters it in ``sys.modules``."""
    spec = importlib.util.spec_from_file_location(module_name, file_path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file_path!r} cannot be imported as a Python module.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if make_importable:
        sys.modules[module_name] = module
    return module


def fixup_module_metadata(
    module_name: str, namespace: dict[str, Any], keys: Iterable[str] | None = None
) -> None:
    """Let re-exported objects claim `module_name` as their home, only while docs are built.

    Args:
        namespace: the ``globals()`` of the module that re-exports.
        keys: names to change; None means every public name of `namespace`.
    """
    if not DOC_BUILDING:
        return
    chosen = [name for name in namespace if not name.startswith("_")] if keys is None else keys
    for name in chosen:
        _rehome(namespace[name], module_name, name)


def _rehome(thing: Any, module_name: str, path: str) -> None:
    home = getattr(thing, "__module__", None)
    if not isinstance(home, str) or home == module_name:
        return
    if home.split(".")[0] != module_name.split(".")[0]:
        return  # somebody else's object keeps its home
    thing.__module__ = module_name
    if isinstance(thing, type):
        thing.__qualname__ = path
        for name, member in vars(thing).items():
            if callable(member):
                _rehome(member, module_name, f"{path}.{name}")
