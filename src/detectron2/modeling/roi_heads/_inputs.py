"""What ROI heads are given: feature maps of some shape, ground truth, boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from detectron2.config.mapping import read_arguments
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Instances


def required_targets(targets: list[Instances] | None) -> list[Instances]:
    if targets is None:
        raise ValueError("Training needs ground truth: the inputs have no 'instances'.")
    return targets


def check_given_boxes(heads: nn.Module, instances: list[Instances]) -> None:
    if heads.training:
        raise RuntimeError("forward_with_given_boxes is for inference: call model.eval() first.")
    for x in instances:
        if not (x.has("pred_boxes") and x.has("pred_classes")):
            raise ValueError(
                "Instances with given boxes need 'pred_boxes' and 'pred_classes'; they have "
                f"{sorted(x.get_fields())}."
            )


def build_pooler(
    cfg: Any, table: Mapping[str, str], input_shape: Mapping[str, ShapeSpec], names: Sequence[str]
) -> ROIPooler | None:
    """Pooler of a head; None if its POOLER_TYPE is empty: the head then gets whole maps."""
    arguments = read_arguments(cfg, table)
    if not arguments["pooler_type"]:
        return None
    return ROIPooler(scales=tuple(1.0 / input_shape[name].stride for name in names), **arguments)


def pooled_shape(
    pooler: ROIPooler | None, input_shape: Mapping[str, ShapeSpec], names: Sequence[str]
) -> Any:
    """Shape of what a head gets: of one region's features, or of the maps by name."""
    if pooler is None:
        return {name: input_shape[name] for name in names}
    channels = {input_shape[name].channels for name in names}
    if len(channels) != 1:
        raise ValueError(
            f"Features {list(names)} are pooled together and need the same number of channels, "
            f"but have {[input_shape[name].channels for name in names]}."
        )
    height, width = pooler.output_size
    return ShapeSpec(channels=channels.pop(), height=height, width=width)
