"""Sigmoid focal loss of dense classifiers, summed, in little memory."""

from typing import Any

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import check_floating, check_same_device
from detectron2.ops.sigmoid_focal_loss.reference import (
    sigmoid_focal_loss_backward_reference,
    sigmoid_focal_loss_reference,
)

__all__ = ["sigmoid_focal_loss"]


def sigmoid_focal_loss(
    logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sum of the focal loss over all rows and classes.

    From RetinaNet, https://arxiv.org/abs/1708.02002, eq. (5). Differentiable in `logits`.

    Args:
        logits: (M, C), one binary classifier per class.
        labels: (M,) integer class of each row; C or more is background, and a row of a negative
            label takes no part.
        alpha: weight of positives, 1 - alpha that of negatives; negative for no weights.
        gamma: exponent, not negative; 0 is cross entropy.

    Returns:
        Scalar: float64 for float64 logits, else float32.

    Raises:
        ValueError: wrong shapes, a negative gamma, or tensors on two devices.
        TypeError: the logits are not floating point numbers, or the labels are.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; expected "
            "(M, C) and one label per row, (M,)."
        )
    check_floating(logits, "logits")
    if labels.is_floating_point():
        raise TypeError(f"labels has dtype {labels.dtype}; give the class of each row.")
    if gamma < 0:
        raise ValueError(f"gamma is {gamma}; use 0 (cross entropy) or more.")
    check_same_device(logits, labels, "logits", "labels")
    labels = labels.detach().to(torch.int64)
    return dispatch.call("sigmoid_focal_loss", logits, labels, float(alpha), float(gamma))


def fake_sigmoid_focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    double = logits.dtype == torch.float64
    return logits.new_empty((), dtype=torch.float64 if double else torch.float32)


def fake_sigmoid_focal_loss_backward(
    grad: Tensor, logits: Tensor, labels: Tensor, alpha: float, gamma: float
) -> Tensor:
    return logits.new_empty(logits.shape)


def save_sigmoid_focal_loss(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, labels, *ctx.arguments = inputs
    ctx.save_for_backward(logits, labels)


def differentiate_sigmoid_focal_loss(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradient = torch.ops.detectron2.sigmoid_focal_loss_backward(
        grad, *ctx.saved_tensors, *ctx.arguments
    )
    return gradient, None, None, None


def refuse_second_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        "The kernels of sigmoid_focal_loss have no second gradient; compute it within "
        "detectron2.ops.dispatch.use_implementation('reference')."
    )


dispatch.define(
    "sigmoid_focal_loss(Tensor logits, Tensor labels, float alpha, float gamma) -> Tensor",
    reference=sigmoid_focal_loss_reference,
    fake=fake_sigmoid_focal_loss,
    numba="detectron2.ops.sigmoid_focal_loss.cpu:sigmoid_focal_loss",
    triton="detectron2.ops.sigmoid_focal_loss.gpu:sigmoid_focal_loss",
    backward=differentiate_sigmoid_focal_loss,
    save=save_sigmoid_focal_loss,
)
dispatch.define(
    "sigmoid_focal_loss_backward(Tensor grad, Tensor logits, Tensor labels, float alpha, "
    "float gamma) -> Tensor",
    reference=sigmoid_focal_loss_backward_reference,
    fake=fake_sigmoid_focal_loss_backward,
    numba="detectron2.ops.sigmoid_focal_loss.cpu:sigmoid_focal_loss_backward",
    triton="detectron2.ops.sigmoid_focal_loss.gpu:sigmoid_focal_loss_backward",
    backward=refuse_second_gradient,
)
