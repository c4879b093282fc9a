"""Backbones by name."""

from __future__ import annotations

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.utils.registry import Registry, registered

__all__ = ["BACKBONE_REGISTRY", "build_backbone"]

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = """
Backbones by name. An entry is called as ``entry(cfg, input_shape)``, where `input_shape` is the
ShapeSpec of the images, and returns a Backbone.
"""


def build_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> Backbone:
    """The backbone that `cfg.MODEL.BACKBONE.NAME` names.

    Args:
        cfg: config.
        input_shape: of the images; by default as many channels as `cfg.MODEL.PIXEL_MEAN` has.

    Raises:
        TypeError: what is registered under the name builds no Backbone.
    """
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    name = cfg.MODEL.BACKBONE.NAME
    backbone = registered(BACKBONE_REGISTRY, name)(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise TypeError(
            f"MODEL.BACKBONE.NAME {name!r} built a {type(backbone).__name__}; a backbone derives "
            "from detectron2.modeling.Backbone."
        )
    return backbone
