"""Optimizers whose step is one kernel for each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["fused_runs_on", "mend_fused_steps"]

ParamGroup = dict[str, Any]

_KERNELS = ("fused", "foreach")


def fused_runs_on(params: Sequence[ParamGroup]) -> bool | None:
    """True where one kernel can update each parameter; None leaves the choice to PyTorch.

    The step of a ResNet-18 Mask R-CNN by AdamW took 185 ms of one core as separate operations.
    """
    members = [parameter for group in params for parameter in group["params"]]
    fits = all(
        p.device.type in ("cpu", "cuda")
        and p.is_floating_point()
        and not hasattr(p, "placements")  # a shard, which the kernel of SGD does not know
        for p in members
    )
    return True if fits and members else None


def mend_fused_steps(optimizer: torch.optim.Optimizer) -> None:
    """Keep the fused kernels of an optimizer from what they fail at."""
    optimizer.register_step_pre_hook(_order_gradients)
    _start_momentum_at_zero(optimizer)
    _keep_kernels(optimizer)


def _keep_kernels(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer step as it was made to, whatever made the state that it loads.

    PyTorch takes the choice of kernels over from a checkpoint: a training of before would go on
    slowly, and with a `GradScaler`, which asks how the optimizer was made, end at its first step.
    """
    made = [{k: group[k] for k in _KERNELS if k in group} for group in optimizer.param_groups]

    def after_load(optimizer: torch.optim.Optimizer) -> None:
        for group, kernels in zip(optimizer.param_groups, made):
            group.update(kernels)
            for parameter in group["params"] if group.get("fused") else ():
                _fit_to_fused_kernel(optimizer.state.get(parameter, {}), parameter)

    optimizer.register_load_state_dict_post_hook(after_load)


def _fit_to_fused_kernel(state: dict[str, Any], parameter: nn.Parameter) -> None:
    """Change the loaded state of a parameter to what the fused kernels read."""
    step = state.get("step")
    if step is not None:  # without the kernel it is a number, or on the CPU
        state["step"] = torch.as_tensor(step, dtype=torch.float32).to(parameter.device)
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            state[name] = _ordered_as(parameter, value)


def _order_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Put gradients that somebody assigned in another order of memory into that of the weights."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") else ():
            if parameter.grad is not None and not parameter.grad.is_sparse:
                parameter.grad = _ordered_as(parameter, parameter.grad)


def _ordered_as(parameter: nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """`value`, in the order of memory of a parameter of its shape.

    On a CPU the fused kernels pair numbers as they lie: what is in the usual order would meet the
    wrong ones of a weight that is channels-last, and nothing says so.
    """
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _start_momentum_at_zero(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters a momentum of zeros before the fused kernel of SGD makes one itself.

    Where only some parameters had a gradient in the first step it fails in the next one; and where
    a `GradScaler` skips the first step, as it does while it looks for its scale, the momentum is
    what happened to be in the memory. From zeros the first step has the same bits. Other
    optimizers are left alone, and so is one with dampening, whose first step has none.
    """

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["fused"] and group["momentum"] else ():
                if parameter.grad is None:
                    continue
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)

    if isinstance(optimizer, torch.optim.SGD) and not any(
        group["dampening"] for group in optimizer.param_groups
    ):
        optimizer.register_step_pre_hook(before_step)
