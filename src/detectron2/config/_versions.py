"""What the keys of configs were called in each version.

``VERSION`` 2 is the current one. Version 1 had other names for many keys and kept the anchors of
RPN and RetinaNet apart; version 0 had a group of its own for the head of the RPN.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from fvcore.common.config import CfgNode

__all__ = ["FIRST_VERSION", "LATEST_VERSION", "convert", "convert_to_current_version"]

logger = logging.getLogger("detectron2.config.compat")  # the address under which this is public

FIRST_VERSION = 0
LATEST_VERSION = 2

_RENAMED_IN_1 = {"MODEL.RPN_HEAD.NAME": "MODEL.RPN.HEAD_NAME"}

# Names of version 1 and the names that version 2 gave them.
_RENAMED_IN_2 = {
    "MODEL.WEIGHT": "MODEL.WEIGHTS",
    "MODEL.PANOPTIC_FPN.COMBINE_ON": "MODEL.PANOPTIC_FPN.COMBINE.ENABLED",
    "MODEL.PANOPTIC_FPN.COMBINE_INSTANCES_CONFIDENCE_THRESHOLD": (
        "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"
    ),
    "MODEL.PANOPTIC_FPN.COMBINE_OVERLAP_THRESHOLD": "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH",
    "MODEL.PANOPTIC_FPN.COMBINE_STUFF_AREA_LIMIT": "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT",
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_SCALE": "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT",
    "MODEL.PANOPTIC_FPN.RPN_LOSS_SCALE": "MODEL.RPN.LOSS_WEIGHT",
    "MODEL.PANOPTIC_FPN.SEMANTIC_LOSS_SCALE": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    "MODEL.RETINANET.INFERENCE_NMS_THRESHOLD": "MODEL.RETINANET.NMS_THRESH_TEST",
    "MODEL.RETINANET.INFERENCE_SCORE_THRESHOLD": "MODEL.RETINANET.SCORE_THRESH_TEST",
    "MODEL.RETINANET.INFERENCE_TOPK_CANDIDATES": "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
    "MODEL.ROI_HEADS.NMS": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.ROI_HEADS.SCORE_THRESH": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "TEST.AUG_FLIP": "TEST.AUG.FLIP",
    "TEST.AUG_MAX_SIZE": "TEST.AUG.MAX_SIZE",
    "TEST.AUG_MIN_SIZES": "TEST.AUG.MIN_SIZES",
    "TEST.AUG_ON": "TEST.AUG.ENABLED",
    "TEST.DETECTIONS_PER_IMG": "TEST.DETECTIONS_PER_IMAGE",
}

_ANCHOR_OPTIONS = ("ASPECT_RATIOS", "SIZES")
_RETINANET_STRIDES = "MODEL.RETINANET.ANCHOR_STRIDES"  # version 1 had the key and never read it
_ONLY_IN_1 = (
    *_RENAMED_IN_2,
    *(f"MODEL.{head}.ANCHOR_{name}" for head in ("RPN", "RETINANET") for name in _ANCHOR_OPTIONS),
    _RETINANET_STRIDES,
)


def convert_to_current_version(loaded: CfgNode, cfg: CfgNode, filename: str) -> CfgNode:
    """The options of a config file under the key names of `cfg`.

    Args:
        loaded: what the file holds, usually a few of all keys.
        cfg: the config it will be merged into; completes what the conversion needs to know.

    Raises:
        ValueError: the file is of a newer version than `cfg`.
    """
    version = loaded.get("VERSION", None)
    if version is None:
        version = _guess_version(loaded, cfg.VERSION, filename)
    if version > cfg.VERSION:
        raise ValueError(
            f"Config file {filename!r} is of VERSION {version}, but this config is of VERSION "
            f"{cfg.VERSION}; start from get_cfg() of a release that knows version {version}."
        )
    if version == cfg.VERSION:
        return loaded
    logger.warning(
        "Config file %r uses key names of version %d; they are converted to version %d.",
        filename,
        version,
        cfg.VERSION,
    )
    return convert(loaded, version, cfg.VERSION, cfg.MODEL.META_ARCHITECTURE)


def _guess_version(loaded: CfgNode, current: int, filename: str) -> int:
    for version, names in ((0, _RENAMED_IN_1), (1, _ONLY_IN_1)):
        used = [key for key in names if _has(loaded, key)]
        if used:
            logger.warning(
                "Config file %r has no VERSION and is taken for version %d because it sets %s.",
                filename,
                version,
                ", ".join(used),
            )
            return version
    return current


def convert(
    cfg: CfgNode, from_version: int, to_version: int, meta_architecture: str = ""
) -> CfgNode:
    """Copy of `cfg`, one version step after the other; keys that `cfg` lacks are left out."""
    result = cfg.clone()
    was_frozen = result.is_frozen()
    result.defrost()
    if to_version > from_version:
        for version in range(from_version + 1, to_version + 1):
            _UPGRADES[version](result, meta_architecture)
    else:
        for version in range(from_version, to_version, -1):
            _DOWNGRADES[version](result)
    result.VERSION = to_version
    if was_frozen:
        result.freeze()
    return result


def _rename(cfg: CfgNode, old_to_new: Iterable[tuple[str, str]]) -> None:
    for old, new in old_to_new:
        if _has(cfg, old):
            _put(cfg, new, _take(cfg, old))


def _upgrade_to_1(cfg: CfgNode, meta_architecture: str) -> None:
    _rename(cfg, _RENAMED_IN_1.items())


def _downgrade_from_1(cfg: CfgNode) -> None:
    _rename(cfg, ((new, old) for old, new in _RENAMED_IN_1.items()))


def _upgrade_to_2(cfg: CfgNode, meta_architecture: str) -> None:
    _rename(cfg, _RENAMED_IN_2.items())
    if _has(cfg, "MODEL.META_ARCHITECTURE"):
        meta_architecture = cfg.MODEL.META_ARCHITECTURE
    used = "RETINANET" if meta_architecture == "RetinaNet" else "RPN"
    for name in _ANCHOR_OPTIONS:
        for head in ("RPN", "RETINANET"):
            old = f"MODEL.{head}.ANCHOR_{name}"
            if _has(cfg, old):
                value = _take(cfg, old)
                if head == used:
                    _put(cfg, f"MODEL.ANCHOR_GENERATOR.{name}", value)
    if _has(cfg, _RETINANET_STRIDES):
        _take(cfg, _RETINANET_STRIDES)


def _downgrade_from_2(cfg: CfgNode) -> None:
    _rename(cfg, ((new, old) for old, new in _RENAMED_IN_2.items()))
    for name in _ANCHOR_OPTIONS:
        new = f"MODEL.ANCHOR_GENERATOR.{name}"
        if _has(cfg, new):
            value = _take(cfg, new)
            _put(cfg, f"MODEL.RPN.ANCHOR_{name}", value)
            _put(cfg, f"MODEL.RETINANET.ANCHOR_{name}", value)
    _put(cfg, _RETINANET_STRIDES, [])


_UPGRADES: dict[int, Callable[[CfgNode, str], None]] = {1: _upgrade_to_1, 2: _upgrade_to_2}
_DOWNGRADES: dict[int, Callable[[CfgNode], None]] = {1: _downgrade_from_1, 2: _downgrade_from_2}


def _has(cfg: CfgNode, key: str) -> bool:
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _take(cfg: CfgNode, key: str) -> Any:
    """Remove and return the value at `key`, and the groups that this leaves empty."""
    *groups, last = key.split(".")
    path = [cfg]
    for part in groups:
        path.append(path[-1][part])
    value = path[-1].pop(last)
    for parent, part in reversed(list(zip(path, groups))):
        if not parent[part]:
            del parent[part]
    return value


def _put(cfg: CfgNode, key: str, value: Any) -> None:
    *groups, last = key.split(".")
    node = cfg
    for part in groups:
        if part not in node:
            node[part] = type(node)()
        node = node[part]
    node[last] = value
