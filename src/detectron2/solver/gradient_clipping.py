"""Optimizers that limit their gradients before each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

Clip = Callable[[Iterable[Tensor]], None]


class GradientClipType(Enum):
    """What SOLVER.CLIP_GRADIENTS.CLIP_TYPE may say."""

    VALUE = "value"
    NORM = "norm"
    FULL_MODEL = "full_model"


def make_clipper(clip_type: str, clip_value: float, norm_type: float) -> Clip:
    """Function that clips the gradients of parameters in place; those without one are skipped.

    Args:
        clip_type: ``"value"`` limits each element to [-clip_value, clip_value]; ``"norm"``
            scales each parameter's gradient down to norm `clip_value`; ``"full_model"`` does so
            with the gradient of all parameters together.
        norm_type: order of the norm, may be infinite.

    Raises:
        ValueError: another `clip_type`.
    """

    def by_value(parameters: Iterable[Tensor]) -> None:
        clip_grad_value_(parameters, clip_value)

    def by_norm(parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            clip_grad_norm_(parameter, clip_value, norm_type)

    def by_total_norm(parameters: Iterable[Tensor]) -> None:
        clip_grad_norm_(parameters, clip_value, norm_type)

    clippers: dict[GradientClipType, Clip] = {
        GradientClipType.VALUE: by_value,
        GradientClipType.NORM: by_norm,
        GradientClipType.FULL_MODEL: by_total_norm,
    }
    try:
        return clippers[GradientClipType(clip_type)]
    except ValueError:
        known = ", ".join(repr(kind.value) for kind in GradientClipType)
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip_type!r}; use one of {known}."
        ) from None


def clip_before_step(optimizer: torch.optim.Optimizer, clip: Clip) -> None:
    """Let every later ``optimizer.step()`` clip first, whatever calls it."""

    def clip_all() -> None:
        clip([parameter for group in optimizer.param_groups for parameter in group["params"]])

    def before_step(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        itself, *rest = args  # PyTorch passes the optimizer as the first argument of step() too
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None:
            clip_all()
            return None

        # The gradients of this step do not exist before the closure has run.
        def clipped_closure() -> Any:
            loss = closure()
            clip_all()
            return loss

        return (itself, clipped_closure), {k: v for k, v in kwargs.items() if k != "closure"}

    optimizer.register_step_pre_hook(before_step)


def with_clipping(
    optimizer_type: type[torch.optim.Optimizer], clip: Clip
) -> type[torch.optim.Optimizer]:
    """Subclass of an optimizer class whose instances clip before each step."""

    class OptimizerWithGradientClip(optimizer_type):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            clip_before_step(self, clip)

        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            clip_before_step(self, clip)  # PyTorch does not copy hooks

    OptimizerWithGradientClip.__name__ = f"{optimizer_type.__name__}WithGradientClip"
    return OptimizerWithGradientClip
