"""Configs: the yacs tree with its defaults, lazy Python configs, and the keys of constructors."""

from detectron2.config.compat import downgrade_config, upgrade_config
from detectron2.config.config import (
    CfgNode,
    configurable,
    get_cfg,
    global_cfg,
    set_global_cfg,
)
from detectron2.config.instantiate import instantiate
from detectron2.config.lazy import LazyCall, LazyConfig

__all__ = [
    "CfgNode",
    "LazyCall",
    "LazyConfig",
    "configurable",
    "downgrade_config",
    "get_cfg",
    "global_cfg",
    "instantiate",
    "set_global_cfg",
    "upgrade_config",
]
