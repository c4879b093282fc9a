"""Which batched form a model has, and which of its modules none of them knows."""

from __future__ import annotations

from typing import Any

from torch import nn

from detectron2.export.batched.dense import BatchedFCOS, BatchedRetinaNet, BatchedSemanticSegmentor
from detectron2.export.batched.model import BatchedModel
from detectron2.export.batched.padded import (
    PaddedFCOS,
    PaddedPanopticFPN,
    PaddedProposals,
    PaddedRCNN,
    PaddedRetinaNet,
)
from detectron2.export.batched.postprocessed import PostprocessedBatch
from detectron2.export.batched.rcnn import BatchedPanopticFPN, BatchedProposals, BatchedRCNN
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN, ProposalNetwork
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.meta_arch.semantic_seg import SemanticSegmentor
from detectron2.modeling.poolers import _ALIGNED, ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    Res5ROIHeads,
    RROIHeads,
    StandardROIHeads,
)
from detectron2.projects.point_rend._point_masks import PointMaskHead

__all__ = ["UnsupportedModelError", "batched_model", "postprocessed"]


class UnsupportedModelError(ValueError):
    """A module of the model cannot be exported; the message names it."""


# The batched form, and the methods that it stands in for: a subclass that overrides one of them
# computes something else.
_MODELS: dict[type, tuple[type[BatchedModel], tuple[str, ...]]] = {
    GeneralizedRCNN: (BatchedRCNN, ("forward", "inference", "preprocess_image")),
    PanopticFPN: (BatchedPanopticFPN, ("forward", "inference", "preprocess_image")),
    ProposalNetwork: (BatchedProposals, ("forward",)),
    RetinaNet: (BatchedRetinaNet, ("forward", "forward_inference", "inference_single_image")),
    FCOS: (BatchedFCOS, ("forward", "forward_inference", "inference_single_image")),
    SemanticSegmentor: (BatchedSemanticSegmentor, ("forward",)),
}
# What the batched forms are where every tensor has a fixed shape.
_PADDED: dict[type[BatchedModel], type[BatchedModel]] = {
    BatchedRCNN: PaddedRCNN,
    BatchedPanopticFPN: PaddedPanopticFPN,
    BatchedProposals: PaddedProposals,
    BatchedRetinaNet: PaddedRetinaNet,
    BatchedFCOS: PaddedFCOS,
    BatchedSemanticSegmentor: BatchedSemanticSegmentor,
}
_PROPOSAL_GENERATORS = {
    RPN: ("forward", "predict_proposals", "_find_top_proposals"),
    RRPN: ("forward", "predict_proposals", "_find_top_proposals"),
}
_ROI_HEADS = {
    StandardROIHeads: ("forward", "_forward_box", "_forward_mask", "_forward_keypoint"),
    CascadeROIHeads: ("forward", "_forward_box", "_run_stage", "_forward_mask"),
    RROIHeads: ("forward", "_forward_box"),
    Res5ROIHeads: ("forward", "_shared_roi_transform"),
}


def batched_model(model: nn.Module, padded: bool = False) -> BatchedModel:
    """The form of a model that is traced and exported.

    Args:
        padded: the one whose tensors all have fixed shapes.

    Raises:
        UnsupportedModelError: the model, or one of its modules, has none.
        RuntimeError: the model is in training mode.
    """
    if model.training:
        raise RuntimeError("Only a model in evaluation mode can be exported: call model.eval().")
    known = _known_class(model, {cls: methods for cls, (_, methods) in _MODELS.items()}, "")
    if isinstance(model, (GeneralizedRCNN, ProposalNetwork)):
        _known_class(model.proposal_generator, _PROPOSAL_GENERATORS, "proposal_generator")
    if isinstance(model, GeneralizedRCNN):
        _known_class(model.roi_heads, _ROI_HEADS, "roi_heads")
        _check_poolers(model.roi_heads)
    form = _MODELS[known][0]
    if padded:
        _check_fixed(model)
        form = _PADDED[form]
    return form(model)


def postprocessed(batched: BatchedModel) -> BatchedModel:
    """A batched model whose results need nothing more.

    Raises:
        UnsupportedModelError: it returns semantic scores or rotated boxes.
    """
    names = batched.output_names
    if "sem_seg" in names or isinstance(getattr(batched.model, "roi_heads", None), RROIHeads):
        raise UnsupportedModelError(
            f"postprocess='in' is for upright boxes, masks and keypoints; {_path(batched.model)} "
            "returns something else. Use postprocess='out'."
        )
    return PostprocessedBatch(batched)


def _known_class(module: Any, table: dict[type, tuple[str, ...]], name: str) -> type:
    """The nearest class of `table` in the ancestry of `module`, whose methods it has."""
    which = f"its {name}, {_path(module)}," if name else _path(module)
    # Made fast for inference, a model of a known class is one of a class of its own.
    own_class = getattr(module, "_class_before", type(module))
    for cls in own_class.__mro__:
        if cls not in table:
            continue
        changed = [m for m in table[cls] if getattr(own_class, m) is not getattr(cls, m)]
        if not changed:
            return cls
        raise UnsupportedModelError(
            f"The model cannot be exported: {which} overrides "
            f"{', '.join(changed)} of {cls.__name__}, and an exporter cannot see what it does. "
            "Trace it with detectron2.export.TracingAdapter instead."
        )
    supported = ", ".join(sorted(cls.__name__ for cls in table))
    raise UnsupportedModelError(
        f"The model cannot be exported: {which} is none of {supported}. What a tracer can follow "
        "can be wrapped in detectron2.export.TracingAdapter."
    )


def _check_fixed(model: Any) -> None:
    """Refuse what the padded forms do not know."""
    generator = getattr(model, "proposal_generator", None)
    if isinstance(generator, RRPN) or isinstance(getattr(model, "roi_heads", None), RROIHeads):
        raise UnsupportedModelError(
            "The model cannot be exported with fixed shapes: its proposal_generator and roi_heads "
            "use rotated NMS and ROIAlignRotated. Use torchscript or pt2."
        )
    for name, module in model.named_modules():
        if isinstance(module, ROIPooler) and module.pooler_type not in _ALIGNED:
            raise UnsupportedModelError(
                f"The model cannot be exported with fixed shapes: {name} pools by "
                f"{module.pooler_type}, only {' and '.join(_ALIGNED)} are known."
            )


def _path(module: Any) -> str:
    if module is None:
        return "None"
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _check_poolers(heads: nn.Module) -> None:
    for name in ("mask", "keypoint"):
        whole_maps = getattr(heads, f"{name}_pooler", heads) is None
        head = getattr(heads, f"{name}_head", None)
        if getattr(heads, f"{name}_on", False) and whole_maps and not _reads_points(head):
            raise UnsupportedModelError(
                f"The model cannot be exported: roi_heads.{name}_head, "
                f"{_path(head)}, takes whole feature maps."
            )


def _reads_points(head: Any) -> bool:
    """Whether the batched forms know how a head that takes whole feature maps reads them."""
    return isinstance(head, PointMaskHead)
