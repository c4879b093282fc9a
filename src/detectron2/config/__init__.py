"""Configs: the yacs tree with its defaults, lazy Python configs, and the keys of constructors."""

from detectron2.config.compat import downgrade_config, upgrade_config
from detectron2.config.config import (
    CfgNode,
    configurable,
    get_cfg,
    global_cfg,
    set_global_cfg,
)

__all__ = [
    "CfgNode",
    "configurable",
    "downgrade_config",
    "get_cfg",
    "global_cfg",
    "set_global_cfg",
    "upgrade_config",
]
