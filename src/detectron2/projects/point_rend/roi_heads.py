"""ROI heads that read the checkpoints of the first PointRend."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads

__all__ = ["PointRendROIHeads"]

logger = logging.getLogger(__name__)

_RENAMED = {"mask_point_head": "mask_head.point_head", "mask_coarse_head": "mask_head.coarse_head"}


@ROI_HEADS_REGISTRY.register()
class PointRendROIHeads(StandardROIHeads):
    """`StandardROIHeads` that also takes configs and weights of before the mask head was one."""

    _version = 2

    @classmethod
    def _init_mask_head(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        if cfg.MODEL.MASK_ON and cfg.MODEL.ROI_MASK_HEAD.NAME == "CoarseMaskHead":
            logger.warning(
                "MODEL.ROI_MASK_HEAD.NAME is 'CoarseMaskHead', as in old configs of PointRend; "
                "PointRendMaskHead is built."
            )
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.ROI_MASK_HEAD.NAME = "PointRendMaskHead"
            cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
            cfg.freeze()
        return super()._init_mask_head(cfg, input_shape)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        version = local_metadata.get("version")
        if version is None or version < 2:
            for old, new in _RENAMED.items():
                start = f"{prefix}{old}."
                for key in [key for key in state_dict if key.startswith(start)]:
                    state_dict[f"{prefix}{new}.{key[len(start) :]}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
