"""Registry of whole models and the function that builds one from a config."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detectron2.utils.logger import _log_api_usage
from detectron2.utils.registry import Registry, registered

__all__ = ["META_ARCH_REGISTRY", "build_model"]

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = """
Whole models, looked up by ``cfg.MODEL.META_ARCHITECTURE``.

An entry is called as ``entry(cfg)`` and returns an ``nn.Module`` that maps a list of input
dictionaries to losses (training) or to a list of output dictionaries (inference).
"""


def build_model(cfg: Any) -> nn.Module:
    """The model named by ``cfg.MODEL.META_ARCHITECTURE``, on ``cfg.MODEL.DEVICE``.

    The weights are freshly initialised: ``cfg.MODEL.WEIGHTS`` is not read here, a
    checkpointer loads it.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    model: nn.Module = registered(META_ARCH_REGISTRY, name)(cfg)
    model.to(torch.device(cfg.MODEL.DEVICE))
    _log_api_usage("modeling.meta_arch." + name)
    return model
