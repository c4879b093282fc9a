"""Proposal generators by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry, registered

__all__ = ["PROPOSAL_GENERATOR_REGISTRY", "build_proposal_generator"]

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = """
Proposal generators by name. An entry is called as ``entry(cfg, input_shape)`` with the ShapeSpec
of each feature map by name, and returns a module such as RPN.
"""


def build_proposal_generator(cfg: Any, input_shape: dict[str, ShapeSpec]) -> nn.Module | None:
    """The generator that `cfg.MODEL.PROPOSAL_GENERATOR.NAME` names.

    Returns:
        the module, or None for "PrecomputedProposals": they come with the data.
    """
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if name == "PrecomputedProposals":
        return None
    return registered(PROPOSAL_GENERATOR_REGISTRY, name)(cfg, input_shape)
