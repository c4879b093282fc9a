"""Loading weights whose tensors have other names: Caffe2's, or ours without the leading part."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.checkpoint._report import matches_table

__all__ = [
    "align_and_update_state_dicts",
    "convert_basic_c2_names",
    "convert_c2_detectron_names",
]

logger = logging.getLogger(__name__)

# --- Caffe2 names ---------------------------------------------------------------------------

# Ends of names: what kind of parameter a blob is. Batch norm is stored as a scale and a bias
# (running statistics only in some files), group norm likewise.
_PARAMETERS = (
    (r"[_.](?:bn|gn)[_.](?:s|gamma)$", ".norm.weight"),
    (r"[_.](?:bn|gn)[_.](?:b|beta|bias)$", ".norm.bias"),
    (r"[_.]bn[_.](?:rm|running[_.]mean)$", ".norm.running_mean"),
    (r"[_.]bn[_.](?:riv|running[_.]var)$", ".norm.running_var"),
    (r"[_.]w$", ".weight"),
    (r"[_.]b$", ".bias"),
)

# The rest of the name in networks for classification.
_RESNET_LAYERS = (
    (r"^(?:res_)?conv1$", "stem.conv1"),
    (r"^pred$", "linear"),
    (r"^res(\d)_(\d+)_branch1$", r"res\1.\2.shortcut"),
    (r"^res(\d)_(\d+)_branch2a$", r"res\1.\2.conv1"),
    (r"^res(\d)_(\d+)_branch2b$", r"res\1.\2.conv2"),
    (r"^res(\d)_(\d+)_branch2c$", r"res\1.\2.conv3"),
)

# The rest of the name in Detectron's models. With FPN, the RPN is shared by all levels and stored
# under the name of level 2.
_DETECTOR_LAYERS = (
    (r"^conv_rpn(?:_fpn2)?$", "proposal_generator.rpn_head.conv"),
    (r"^rpn_cls_logits(?:_fpn2)?$", "proposal_generator.rpn_head.objectness_logits"),
    (r"^rpn_bbox_pred(?:_fpn2)?$", "proposal_generator.rpn_head.anchor_deltas"),
    (r"^fpn_inner_res(\d)_\d+_sum(?:_lateral)?$", r"fpn_lateral\1"),
    (r"^fpn_res(\d)_\d+_sum$", r"fpn_output\1"),
    (r"^fc6$", "box_head.fc1"),
    (r"^fc7$", "box_head.fc2"),
    (r"^head_conv(\d)$", r"box_head.conv\1"),
    (r"^_\[mask\]_fcn(\d)$", r"mask_head.mask_fcn\1"),
    (r"^conv5_mask$", "mask_head.deconv"),
    (r"^mask_fcn_logits$", "mask_head.predictor"),
    (r"^conv_fcn(\d)$", r"roi_heads.keypoint_head.conv_fcn\1"),
    (r"^kps_score_lowres$", "roi_heads.keypoint_head.score_lowres"),
    (r"^kps_score$", "roi_heads.keypoint_head.score"),
)


def convert_basic_c2_names(original_keys: Sequence[str]) -> list[str]:
    """Our names for the blobs of a Caffe2 classification network, in the same order.

    ``res2_0_branch2a_bn_s`` becomes ``res2.0.conv1.norm.weight``. A layer that is not part of a
    ResNet keeps its name, only the end that tells weight from bias is translated.
    """
    return [_translate(key, _RESNET_LAYERS) for key in original_keys]


def convert_c2_detectron_names(
    weights: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights of a Detectron (Caffe2) model under our names and in our order of classes.

    Detectron puts the background first. We put it last in the classifier and predict neither boxes
    nor masks for it, so those rows are dropped.

    Returns:
        Tensors by our name, and the original name of each.
    """
    converted: dict[str, Tensor] = {}
    original_names: dict[str, str] = {}
    for original, tensor in weights.items():
        name = _translate(original, (*_RESNET_LAYERS, *_DETECTOR_LAYERS))
        converted[name] = _reorder_classes(name, tensor)
        original_names[name] = original
    return converted, original_names


def _translate(key: str, layers: Iterable[tuple[str, str]]) -> str:
    layer, parameter = key, ""
    for pattern, replacement in _PARAMETERS:
        match = re.search(pattern, key)
        if match:
            layer, parameter = key[: match.start()], replacement
            break
    for pattern, replacement in layers:
        layer, count = re.subn(pattern, replacement, layer)
        if count:
            break
    return layer + parameter


def _reorder_classes(name: str, tensor: Tensor) -> Tensor:
    if name.startswith("cls_score."):
        return torch.cat([tensor[1:], tensor[:1]])
    if name.startswith("bbox_pred."):
        return tensor[4:]
    # A single mask for all classes has no row of the background.
    if name.startswith("mask_head.predictor.") and len(tensor) > 1:
        return tensor[1:]
    return tensor


# --- matching names -------------------------------------------------------------------------


def align_and_update_state_dicts(
    model_state_dict: Mapping[str, Tensor],
    ckpt_state_dict: Mapping[str, Tensor],
    c2_conversion: bool = True,
) -> dict[str, Any]:
    """Rename the tensors of a checkpoint to the names of a model.

    A checkpoint name fits a model name if it is equal to it or is its end after a dot:
    ``res2.0.conv1.weight`` fits ``backbone.bottom_up.res2.0.conv1.weight``. Of several that fit,
    the longest is taken. A tensor of another shape is not taken.

    Args:
        c2_conversion: the checkpoint has Caffe2 names, which are translated first.

    Returns:
        The tensors of the checkpoint: those that were matched under the names of the model, the
        others under their own (translated) name.

    Raises:
        ValueError: one tensor of the checkpoint fits two names of the model.
    """
    if c2_conversion:
        tensors, original_names = convert_c2_detectron_names(ckpt_state_dict)
    else:
        tensors, original_names = dict(ckpt_state_dict), {key: key for key in ckpt_state_dict}
    chosen: dict[str, str] = {}  # checkpoint name -> model name
    for model_name in sorted(model_state_dict):
        name = _longest_suffix(model_name, tensors)
        if name is None or tensors[name].shape != model_state_dict[model_name].shape:
            continue
        if name in chosen:
            raise ValueError(
                f"{original_names[name]!r} of the checkpoint fits two tensors of the model, "
                f"{chosen[name]!r} and {model_name!r}; rename it to the one that is meant."
            )
        chosen[name] = model_name
    if chosen:
        rows = [
            (model_name, original_names[name], tuple(tensors[name].shape))
            for name, model_name in chosen.items()
        ]
        logger.info("Tensors matched by the end of their names:\n%s", matches_table(rows))
    else:
        logger.warning("No tensor of the checkpoint fits a tensor of the model.")
    return {chosen.get(name, name): tensor for name, tensor in tensors.items()}


def _longest_suffix(model_name: str, names: Mapping[str, Any]) -> str | None:
    """The longest of `names` that `model_name` is equal to or ends with after a dot."""
    candidate = model_name
    while candidate not in names:
        _, dot, candidate = candidate.partition(".")
        if not dot:
            return None
    return candidate


def name_misfits(
    aligned: Mapping[str, Tensor], model_state_dict: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same tensors; those that only their shape kept from a match get the model's name too.

    Loading then reports them as tensors of another shape, not as missing and left over.
    """
    misfits: dict[str, list[str]] = {}
    for model_name in model_state_dict:
        if model_name not in aligned:
            name = _longest_suffix(model_name, aligned)
            if name is not None and name not in model_state_dict:
                misfits.setdefault(name, []).append(model_name)
    renamed = {name: models[0] for name, models in misfits.items() if len(models) == 1}
    return {renamed.get(name, name): tensor for name, tensor in aligned.items()}


def _longest_common_prefix_str(names: Sequence[str]) -> str:
    return os.path.commonprefix(list(names))
