"""Optimizers and schedules from a config, and parameter groups from a model."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

from detectron2.config import CfgNode
from detectron2.config.mapping import read_arguments
from detectron2.config.mapping import solver as keys
from detectron2.solver._fused import fused_runs_on, mend_fused_steps
from detectron2.solver.gradient_clipping import (
    GradientClipType,
    clip_before_step,
    make_clipper,
    with_clipping,
)
from detectron2.solver.lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

__all__ = [
    "CfgNode",
    "GradientClipType",
    "LRMultiplier",
    "WarmupParamScheduler",
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
    "maybe_add_gradient_clipping",
    "reduce_param_groups",
]

ParamGroup = dict[str, Any]
OptimizerOrClass = TypeVar("OptimizerOrClass")

_NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)

logger = logging.getLogger(__name__)


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: OptimizerOrClass) -> OptimizerOrClass:
    """Gradient clipping as SOLVER.CLIP_GRADIENTS says; nothing happens if it is not enabled.

    Args:
        optimizer: an optimizer, which is changed, or a class of optimizers, which is not.

    Returns:
        The optimizer, or a subclass that clips.
    """
    if not cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        return optimizer
    clip = make_clipper(**read_arguments(cfg, keys.CLIP_GRADIENTS))
    if isinstance(optimizer, torch.optim.Optimizer):
        clip_before_step(optimizer, clip)
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        return with_clipping(optimizer, clip)  # type: ignore[return-value]
    raise TypeError(f"{optimizer!r} is neither a PyTorch optimizer nor a class of them.")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Optimizer of a config: SGD, or what SOLVER.OPTIMIZER names."""
    params = get_default_optimizer_params(model, **read_arguments(cfg, keys.PARAM_GROUPS))
    name = str(cfg.SOLVER.get("OPTIMIZER", "SGD")).upper()
    if name not in _OPTIMIZERS:
        raise ValueError(f"SOLVER.OPTIMIZER is {name!r}; use one of {sorted(_OPTIMIZERS)}.")
    optimizer_type, table = _OPTIMIZERS[name]
    optimizer_type = maybe_add_gradient_clipping(cfg, optimizer_type)
    optimizer = optimizer_type(params, fused=fused_runs_on(params), **read_arguments(cfg, table))
    mend_fused_steps(optimizer)
    return optimizer


_OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, str]]] = {
    "SGD": (torch.optim.SGD, keys.SGD),
    "ADAM": (torch.optim.Adam, keys.ADAMW),
    "ADAMW": (torch.optim.AdamW, keys.ADAMW),
}


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> list[ParamGroup]:
    """Parameter groups for an optimizer: every trainable parameter once, with its settings.

    A value of None leaves a setting to the optimizer's own default.

    Args:
        base_lr: learning rate.
        weight_decay: of everything that the next arguments do not name.
        weight_decay_norm: of the weights and biases of normalization layers.
        bias_lr_factor: multiplies the learning rate of parameters called ``bias``.
        weight_decay_bias: of parameters called ``bias``, in normalization layers too.
        lr_factor_func: multiplies the learning rate; it gets a parameter's full name, such as
            ``"backbone.bottom_up.stem.conv1.weight"``.
        overrides: settings by the last part of a parameter's name, stronger than all others:
            ``{"pos_embed": {"weight_decay": 0.0}}``.

    Returns:
        Groups ``{"params": [...], "lr": ..., "weight_decay": ...}``, each with other settings.

    Raises:
        ValueError: a factor of the learning rate without `base_lr`, or two sources of
            settings for ``bias``.
    """
    bias_lr_factor = 1.0 if bias_lr_factor is None else bias_lr_factor
    changes_bias = bias_lr_factor != 1.0 or weight_decay_bias is not None
    overrides = overrides or {}
    if base_lr is None and (bias_lr_factor != 1.0 or lr_factor_func is not None):
        raise ValueError("bias_lr_factor and lr_factor_func multiply base_lr, which is None.")
    if changes_bias and "bias" in overrides:
        raise ValueError(
            "Settings of 'bias' are given twice: in overrides and by bias_* arguments."
        )

    groups = []
    for name, leaf, module, parameter in _trainable_parameters(model):
        decay = weight_decay
        if weight_decay_norm is not None and isinstance(module, _NORM_LAYERS):
            decay = weight_decay_norm
        factor = lr_factor_func(name) if lr_factor_func is not None else 1.0
        if leaf == "bias":
            decay = decay if weight_decay_bias is None else weight_decay_bias
            factor *= bias_lr_factor
        group: ParamGroup = {"params": [parameter]}
        if base_lr is not None:
            group["lr"] = base_lr * factor
        if decay is not None:
            group["weight_decay"] = decay
        groups.append({**group, **overrides.get(leaf, {})})
    return reduce_param_groups(groups)


def _trainable_parameters(
    model: nn.Module,
) -> Iterator[tuple[str, str, nn.Module, nn.Parameter]]:
    """(full name, last part of it, owner, parameter); a shared parameter comes once."""
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield (f"{prefix}.{leaf}" if prefix else leaf), leaf, module, parameter


def _expand_param_groups(params: Sequence[ParamGroup]) -> list[ParamGroup]:
    """One group per parameter; where a parameter comes twice, the later settings win."""
    settings: defaultdict[torch.Tensor, ParamGroup] = defaultdict(dict)
    for group in params:
        members = group["params"]
        chosen = {name: value for name, value in group.items() if name != "params"}
        for parameter in [members] if isinstance(members, torch.Tensor) else members:
            settings[parameter].update(chosen)
    return [{"params": [parameter], **chosen} for parameter, chosen in settings.items()]


def reduce_param_groups(params: Sequence[ParamGroup]) -> list[ParamGroup]:
    """Merge groups with equal settings, in the order of their first parameters.

    Optimizers handle few large groups much faster than many small ones.
    """
    merged: dict[tuple[tuple[str, Any], ...], ParamGroup] = {}
    for group in _expand_param_groups(params):
        members = group.pop("params")
        same = merged.setdefault(tuple(sorted(group.items())), {"params": [], **group})
        same["params"].extend(members)
    return list(merged.values())


def _multi_step(steps: Sequence[int], gamma: float, max_iter: int) -> ParamScheduler:
    reached = [step for step in steps if step < max_iter]
    if len(reached) < len(steps):
        late = [step for step in steps if step >= max_iter]
        logger.warning(
            "SOLVER.STEPS %s are never reached, because SOLVER.MAX_ITER is %d.", late, max_iter
        )
    values = [gamma**k for k in range(len(reached) + 1)]
    return MultiStepParamScheduler(values, milestones=reached, num_updates=max_iter)


def _cosine(base_lr: float, base_lr_end: float) -> ParamScheduler:
    if base_lr_end < 0:
        raise ValueError(f"SOLVER.BASE_LR_END is {base_lr_end}; it must not be negative.")
    return CosineParamScheduler(1.0, base_lr_end / base_lr)


def _step_with_fixed_gamma(gamma: float, num_decays: int, max_iter: int) -> ParamScheduler:
    return StepWithFixedGammaParamScheduler(
        base_value=1.0, gamma=gamma, num_decays=num_decays, num_updates=max_iter
    )


_SCHEDULES: dict[str, tuple[Callable[..., ParamScheduler], dict[str, str]]] = {
    "WarmupMultiStepLR": (_multi_step, keys.MULTI_STEP),
    "WarmupCosineLR": (_cosine, keys.COSINE),
    "WarmupStepWithFixedGammaLR": (_step_with_fixed_gamma, keys.STEP_WITH_FIXED_GAMMA),
}


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Schedule that SOLVER.LR_SCHEDULER_NAME names, with its warm-up; step it every iteration.

    Raises:
        ValueError: no such schedule.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in _SCHEDULES:
        raise ValueError(f"SOLVER.LR_SCHEDULER_NAME is {name!r}; use one of {sorted(_SCHEDULES)}.")
    make, table = _SCHEDULES[name]
    return _with_warmup(
        optimizer, make(**read_arguments(cfg, table)), **read_arguments(cfg, keys.WARMUP)
    )


def _with_warmup(
    optimizer: torch.optim.Optimizer,
    schedule: ParamScheduler,
    warmup_iters: int,
    warmup_factor: float,
    warmup_method: str,
    rescale_interval: bool,
    max_iter: int,
) -> LRScheduler:
    multiplier = WarmupParamScheduler(
        schedule,
        warmup_factor,
        min(warmup_iters / max_iter, 1.0),
        warmup_method,
        rescale_interval,
    )
    return LRMultiplier(optimizer, multiplier, max_iter=max_iter)
