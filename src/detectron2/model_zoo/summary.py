"""How large a model of the zoo is and how much it computes, without its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode, instantiate
from detectron2.model_zoo.model_zoo import get_config

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ModelSummary",
    "PartSummary",
    "build",
    "example_inputs",
    "summarize",
    "usual_size",
]

# Height and width of a photograph of COCO as most configs resize it.
_IMAGE_SIZE = (800, 1088)

# Proposals that a model without a generator of its own is given.
_NUM_PROPOSALS = 1000


@dataclass(frozen=True)
class PartSummary:
    """A direct child of a model.

    Attributes:
        name: of the attribute, such as "backbone".
        layers: classes it is made of, from the outside in, such as "FPN > ResNet".
        parameters: number of values in its parameters.
        gflops: billion multiply-adds of one inference, None if not counted.
    """

    name: str
    layers: str
    parameters: int
    gflops: float | None


@dataclass(frozen=True)
class ModelSummary:
    """A model in numbers.

    Attributes:
        architecture: class of the model.
        parameters: number of values in its parameters.
        trainable: how many of them training changes.
        megabytes: size of parameters and buffers in memory.
        gflops: billion multiply-adds of one inference, None if not counted.
        parts: its direct children, those that have parameters.
    """

    architecture: str
    parameters: int
    trainable: int
    megabytes: float
    gflops: float | None
    parts: list[PartSummary]


def build(config_path: str) -> nn.Module:
    """Model of a config of the zoo on the CPU, with random weights.

    Raises:
        RuntimeError: there is no such config.
        ValueError: the config is a piece that describes no model.
    """
    from detectron2.modeling import build_model

    cfg = get_config(config_path)
    if isinstance(cfg, CfgNode):
        cfg.MODEL.DEVICE = "cpu"
        return build_model(cfg)
    if "model" not in cfg:
        raise ValueError(f"Config {config_path!r} is a piece of configs and describes no model.")
    return instantiate(cfg.model)


def usual_size(model: nn.Module) -> tuple[int, int]:
    """(height, width) of the images that a model is made for: 800 x 1088, or its own square."""
    backbone = getattr(model, "backbone", None)
    square = getattr(backbone, "padding_constraints", {}).get("square_size", 0)
    return (square, square) if square else _IMAGE_SIZE


def example_inputs(model: nn.Module, size: tuple[int, int]) -> list[dict[str, Any]]:
    """One image of noise, (height, width) `size`, with proposals if the model makes none itself."""
    import torch

    generator = torch.Generator().manual_seed(0)
    sample: dict[str, Any] = {"image": torch.rand(3, *size, generator=generator) * 255}
    if hasattr(model, "roi_heads") and model.proposal_generator is None:
        sample["proposals"] = _proposals(size, generator)
    return [sample]


def _proposals(size: tuple[int, int], generator: Any) -> Any:
    import torch

    from detectron2.structures import Boxes, Instances

    height, width = size
    ends = torch.rand(_NUM_PROPOSALS, 2, 2, generator=generator).sort(dim=1).values
    boxes = (ends * torch.tensor([width, height])).flatten(1)
    scores = torch.linspace(5, -5, _NUM_PROPOSALS)
    return Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=scores)


def summarize(model: nn.Module, size: tuple[int, int] | None) -> ModelSummary:
    """Parts, parameters and multiply-adds of a model.

    Args:
        size: (height, width) of the image to count for; None does not count multiply-adds.
    """
    from detectron2.utils.dry_run import count_flops

    flops = None if size is None else count_flops(model, example_inputs(model, size))
    parameters = list(model.parameters())
    tensors = [*parameters, *model.buffers()]
    return ModelSummary(
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        megabytes=sum(t.numel() * t.element_size() for t in tensors) / 2**20,
        gflops=None if flops is None else sum(flops.values()) / 1e9,
        parts=list(_parts(model, flops)),
    )


def _parts(model: nn.Module, flops: dict[str, float] | None) -> Iterator[PartSummary]:
    for name, child in model.named_children():
        count = sum(p.numel() for p in child.parameters())
        if count:
            gflops = None if flops is None else flops.get(name, 0.0) / 1e9
            yield PartSummary(name, _layers(child), count, gflops)


def _layers(module: nn.Module) -> str:
    """Class of a part, and of the network it wraps if there is one: "FPN > ResNet"."""
    names = [type(module).__name__]
    for inner in ("bottom_up", "net"):
        if hasattr(module, inner):
            names.append(type(getattr(module, inner)).__name__)
    return " > ".join(names)
