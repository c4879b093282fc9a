"""Changes of a model before it is trained, as the keys of TRAINING say."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from detectron2.engine.integer_training import round_to_integers
from detectron2.engine.training_blocks import speed_up_convolutions
from detectron2.engine.training_norms import keep_constants_of_norms
from detectron2.layers import CNNBlockBase

__all__ = ["compile_backbone", "freeze_parameters", "prepare_model", "recompute_blocks"]

logger = logging.getLogger(__name__)


def prepare_model(
    model: nn.Module, training: Mapping[str, Any], mixed_precision: bool = False
) -> None:
    """Change `model` as the options say.

    Args:
        training: the options, see `detectron2.config.training_defaults`.
        mixed_precision: whether convolutions will run in float16 or bfloat16.

    Raises:
        ValueError: an option does not fit the model, or another option.
    """
    if training["FREEZE"]:
        freeze_parameters(model, list(training["FREEZE"]))
    fast = training["FAST_CONVOLUTIONS"]
    rounded = training["QUANTIZATION"]["ENABLED"]
    compiled = training["COMPILE"]["ENABLED"]
    fused = fast and not compiled and _is_on(model, "cpu")
    fused = fused and not rounded  # its kernels would round nothing
    if rounded:
        round_to_integers(model)
    # The tensor cores of a GPU read half numbers in this order; from another one cuDNN copies
    # every map into it and back.
    fast_on_gpu = fast and _is_on(model, "cuda")
    suits = fused or (fast_on_gpu and mixed_precision)
    if _are_channels_last(training, suits):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if fused:
        speed_up_convolutions(model)
    if fast_on_gpu and not compiled:
        keep_constants_of_norms(model)
    if training["ACTIVATION_CHECKPOINTING"]:
        recompute_blocks(model)
    if compiled:
        compile_backbone(model, training["COMPILE"]["BACKEND"])


def _are_channels_last(training: Mapping[str, Any], suits: bool) -> bool:
    """Whether the weights are to be; `suits` where that is faster, if nobody asked."""
    wanted: bool = training["CHANNELS_LAST"]
    sharded = training["FSDP"]["ENABLED"]
    if wanted and sharded:
        raise ValueError(
            "TRAINING.CHANNELS_LAST and TRAINING.FSDP.ENABLED exclude each other, because PyTorch "
            "shards weights in their usual order only; unset one of them."
        )
    return wanted or (suits and not sharded)


def _is_on(model: nn.Module, device_type: str) -> bool:
    return all(parameter.device.type == device_type for parameter in model.parameters())


def compile_backbone(model: nn.Module, backend: Any) -> None:
    """Compile the part of the model without data-dependent shapes, in place; names stay.

    Args:
        backend: of ``torch.compile``.

    Raises:
        ValueError: the model has no backbone.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(
            f"TRAINING.COMPILE compiles the backbone, and {type(model).__name__} has "
            "none; unset it."
        )
    # Sizes of batches differ: the second one makes a kernel for all that come.
    backbone.compile(backend=backend)


def freeze_parameters(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Exclude parameters whose names begin with one of `prefixes` from the training.

    Raises:
        ValueError: no name begins with one of them.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            first_parts = sorted({name.split(".")[0] for name in names})
            raise ValueError(
                f"TRAINING.FREEZE names {prefix!r}, but no parameter begins like that; the "
                f"model's parts are {', '.join(first_parts)}."
            )
    frozen = 0
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(prefixes)):
            parameter.requires_grad_(False)
            frozen += 1
    logger.info("%d of %d parameters are frozen.", frozen, len(names))


def recompute_blocks(model: nn.Module) -> None:
    """Keep only the inputs of backbone blocks for the backward pass, and recompute the rest.

    Batch normalization in training mode sees each batch twice, so its averages move faster.

    Raises:
        ValueError: the model has no such blocks.
    """
    count = 0
    for module in model.modules():
        # Transformers have a switch of their own.
        for switch in ("use_act_checkpoint", "use_checkpoint"):
            if isinstance(getattr(module, switch, None), bool):
                setattr(module, switch, True)
                count += 1
        if isinstance(module, CNNBlockBase) and any(p.requires_grad for p in module.parameters()):
            module.forward = functools.partial(  # type: ignore[method-assign]
                checkpoint, module.forward, use_reentrant=False
            )
            count += 1
    if count == 0:
        raise ValueError(
            "TRAINING.ACTIVATION_CHECKPOINTING is set, but the model has no blocks that it knows; "
            "unset it."
        )
