"""Configs under the key names of another version."""

from __future__ import annotations

from detectron2.config._versions import FIRST_VERSION, LATEST_VERSION, convert
from detectron2.config.config import CfgNode

__all__ = ["downgrade_config", "upgrade_config"]


def upgrade_config(cfg: CfgNode, to_version: int | None = None) -> CfgNode:
    """Copy of `cfg` with the key names of a newer version.

    Args:
        to_version: the latest version if None.

    Raises:
        AssertionError: `to_version` is unknown or older than ``cfg.VERSION``.
    """
    target = LATEST_VERSION if to_version is None else to_version
    if not cfg.VERSION <= target <= LATEST_VERSION:
        raise AssertionError(
            f"A config of version {cfg.VERSION} cannot be upgraded to version {target}; "
            f"the latest version is {LATEST_VERSION}."
        )
    return convert(cfg, cfg.VERSION, target)


def downgrade_config(cfg: CfgNode, to_version: int) -> CfgNode:
    """Copy of `cfg` with the key names of an older version.

    Raises:
        AssertionError: `to_version` is unknown or newer than ``cfg.VERSION``.
    """
    if not FIRST_VERSION <= to_version <= cfg.VERSION:
        raise AssertionError(
            f"A config of version {cfg.VERSION} cannot be downgraded to version {to_version}; "
            f"versions start at {FIRST_VERSION}."
        )
    return convert(cfg, cfg.VERSION, to_version)
