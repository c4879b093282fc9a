"""From a model to one that computes the same faster."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from detectron2.engine.inference.blocks import (
    FusedBasicBlock,
    FusedBasicStem,
    FusedBottleneckBlock,
    FusedFPN,
    FusedRPNHead,
    FusedStage,
)
from detectron2.engine.inference.convolutions import FusedConv2d, can_be_fused
from detectron2.engine.inference.fixed_dense import FixedShapeFCOS, FixedShapeRetinaNet
from detectron2.engine.inference.fixed_shapes import FixedShapePanopticFPN, FixedShapeRCNN
from detectron2.engine.inference.graphed import Graphed
from detectron2.engine.inference.graphs import TrunkGraphs
from detectron2.engine.inference.heads import (
    FusedBoxHead,
    FusedMaskHead,
    PreparedConv1d,
    PreparedConvTranspose2d,
    PreparedLinear,
)
from detectron2.engine.inference.prepared import Faster, Prepared
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead

__all__ = ["optimize_for_inference", "speed_up", "undo_speed_up"]

_FAST_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: FusedBasicBlock,
    BasicStem: FusedBasicStem,
    BottleneckBlock: FusedBottleneckBlock,
    FCOS: FixedShapeFCOS,
    FPN: FusedFPN,
    FastRCNNConvFCHead: FusedBoxHead,
    GeneralizedRCNN: FixedShapeRCNN,
    MaskRCNNConvUpsampleHead: FusedMaskHead,
    PanopticFPN: FixedShapePanopticFPN,
    RetinaNet: FixedShapeRetinaNet,
    StandardRPNHead: FusedRPNHead,
    nn.Conv1d: PreparedConv1d,
    nn.ConvTranspose2d: PreparedConvTranspose2d,
    nn.Linear: PreparedLinear,
}

# Scores and box deltas are rounded to float32 at the least.
_ALWAYS_FLOAT32 = (FastRCNNOutputLayers,)


def optimize_for_inference(
    model: nn.Module,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    cuda_graphs: Sequence[tuple[int, int]] | None = None,
) -> nn.Module:
    """A copy of a model that computes the same outputs faster.

    Batch normalisation with fixed statistics is folded into convolutions, ReLU and the sums of
    residual blocks run within them, maps stay in channels-last memory, and 3x3 convolutions on
    CPU use Winograd's algorithm. The copy keeps every parameter under its name: its
    ``state_dict`` is the original's, and loading another one just works. Outside of
    ``torch.no_grad`` or in training mode it runs like the original.

    Args:
        model: any model of this package; layers of other classes stay as they are.
        device: where the copy lives; None leaves it where the model is.
        precision: "fp32" gives the original's outputs up to rounding; "bf16" computes
            convolutions and hidden linear layers in bfloat16, "fp16" in float16.
        cuda_graphs: (height, width) of buckets, for models on a GPU: batches are padded to one
            of them, and the trunk with its head runs from a recording. None: no recordings.

    Raises:
        ValueError: no such precision, or a bucket that is none.
    """
    optimized = copy.deepcopy(model).eval()
    if device is not None:
        optimized = optimized.to(device)
    return speed_up(optimized, precision, cuda_graphs)


def speed_up(
    model: nn.Module,
    precision: str = "fp32",
    cuda_graphs: Sequence[tuple[int, int]] | None = None,
) -> nn.Module:
    """`optimize_for_inference` in place: the layers of `model` itself change their class.

    Returns:
        `model`.
    """
    dtype = _dtype_of(precision)
    for module in model.modules():
        fast = _fast_class(module)
        if fast is not None:
            module.__dict__["_class_before"] = type(module)
            module.__class__ = fast
        if isinstance(module, Prepared):
            module.compute_dtype = dtype
    for module in model.modules():
        if isinstance(module, _ALWAYS_FLOAT32):
            for layer in module.modules():
                layer.__dict__.pop("compute_dtype", None)  # back to the class's float32
    if cuda_graphs is not None:
        record_trunk(model, TrunkGraphs(cuda_graphs))
    return model


def _fast_class(module: nn.Module) -> type[nn.Module] | None:
    """What `module` is to become, if its class has a fast form; asked for parents first."""
    if can_be_fused(module):
        return FusedConv2d
    children = {type(child) for child in module.children()}
    if type(module) is nn.Sequential and children & {BasicBlock, BottleneckBlock}:
        return FusedStage
    return _FAST_CLASSES.get(type(module))


def record_trunk(model: nn.Module, graphs: TrunkGraphs) -> None:
    """Let a model that is sped up run its trunk from recordings.

    Raises:
        ValueError: models of this class cannot.
    """
    if not isinstance(model, Graphed):
        graphed = [plain for plain, fast in _FAST_CLASSES.items() if issubclass(fast, Graphed)]
        known = ", ".join(sorted(plain.__name__ for plain in graphed))
        name = getattr(model, "_class_before", type(model)).__name__
        raise ValueError(f"A {name} has no CUDA graphs; these have: {known}.")
    model.graphs = graphs


def undo_speed_up(model: nn.Module) -> nn.Module:
    """Give the layers of `model` the classes back that they had before `speed_up`.

    Returns:
        `model`.
    """
    for module in model.modules():
        if isinstance(module, Faster):
            module.become_plain()
    return model


def _dtype_of(precision: str) -> torch.dtype:
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in known:
        raise ValueError(f"precision is {precision!r}; use one of {sorted(known)}.")
    return known[precision]
