"""Focal loss on GPU: one program per block of logits.

Budget: 4 bytes read per logit, and 4 more read and 4 written for the gradient. Blocks are
summed in a fixed order, so the loss is the same in every run, and nothing waits for the host.

Not measured yet: it has run in Triton's interpreter, and compiles for NVIDIA and AMD.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.launching import FUSED, device_of
from detectron2.ops.sigmoid_focal_loss.reference import (
    class_weights,
    sigmoid_focal_loss_backward_reference,
    sigmoid_focal_loss_reference,
)

__all__ = ["sigmoid_focal_loss", "sigmoid_focal_loss_backward"]

BLOCK = 1024


@triton.jit
def log_of_one_plus(e):  # type: ignore[no-untyped-def]
    """log(1 + e), also where 1 + e rounds to 1: the rounding error cancels in the quotient."""
    u = 1.0 + e
    return tl.where(u == 1.0, e, tl.log(u) * e / tl.where(u == 1.0, 1.0, u - 1.0))


# `count` may be specialised: only if it is known to be divisible by 16 do threads read and write 16
# bytes at once, and there are no more than these two kinds.
@triton.jit(do_not_specialize=["classes"])
def focal_block(
    logits, labels, output, grad, count, classes, positive, negative, gamma,
    SQUARE: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Forward: output[block] = sum of the losses. Backward: output = gradients of the logits.

    SQUARE: gamma is 2.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK
    index = start + tl.arange(0, BLOCK)
    exists = index < count
    # One division of 64 bits for the block, and of 32 for each logit, which are several times
    # as fast: the kernel waits for memory, not for them.
    first_row = start // classes
    within = (start - first_row * classes).to(tl.int32) + tl.arange(0, BLOCK)
    x = tl.load(logits + index, mask=exists, other=0.0).to(tl.float32)
    label = tl.load(labels + first_row + within // classes, mask=exists, other=-1)
    own = label == within % classes
    sign = tl.where(own, -1.0, 1.0).to(tl.float32)
    weight = tl.where(label >= 0, tl.where(own, positive, negative), 0.0).to(tl.float32)
    x = x * sign
    e = tl.exp(-tl.abs(x))
    log_sum = log_of_one_plus(e)
    p = tl.where(x < 0, e, 1.0) / (1.0 + e)
    cross_entropy = tl.where(x < 0, 0.0, x) + log_sum  # a NaN stays one
    if SQUARE:
        focus = p * p
    else:
        focus = tl.exp(gamma * (tl.where(x < 0, x, 0.0) - log_sum))
    if BACKWARD:
        slope = focus * (gamma * (1.0 - p) * cross_entropy + p)
        # What takes no part is zero, also where the logit is not finite.
        slope = tl.where(weight == 0, 0.0, tl.load(grad).to(tl.float32) * weight * sign * slope)
        tl.store(output + index, slope.to(output.dtype.element_ty), mask=exists)
    else:
        loss = tl.where(weight == 0, 0.0, weight * focus * cross_entropy)
        tl.store(output + tl.program_id(0), tl.sum(loss, axis=0))


def launch(
    logits: Tensor, labels: Tensor, output: Tensor, grad: Tensor, alpha: float, gamma: float,
    backward: bool,
) -> None:  # fmt: skip
    with device_of(logits):
        focal_block[(triton.cdiv(logits.numel(), BLOCK),)](
            logits, labels, output, grad, logits.numel(), logits.shape[1], *class_weights(alpha),
            gamma, SQUARE=gamma == 2, BACKWARD=backward, BLOCK=BLOCK, **FUSED,
        )  # fmt: skip


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """The Triton forward of :func:`detectron2.ops.sigmoid_focal_loss`."""
    if logits.dtype == torch.float64:  # Triton takes alpha and gamma as float32
        return sigmoid_focal_loss_reference(logits, labels, alpha, gamma)
    logits, labels = logits.detach().contiguous(), labels.contiguous()
    blocks = triton.cdiv(logits.numel(), BLOCK)
    sums = torch.zeros(blocks, dtype=torch.float32, device=logits.device)
    if blocks:
        launch(logits, labels, sums, sums, alpha, gamma, False)
    return sums.sum()


def sigmoid_focal_loss_backward(
    grad: Tensor, logits: Tensor, labels: Tensor, alpha: float, gamma: float
) -> Tensor:
    """The Triton backward of :func:`detectron2.ops.sigmoid_focal_loss`."""
    if logits.dtype == torch.float64:
        return sigmoid_focal_loss_backward_reference(grad, logits, labels, alpha, gamma)
    logits, labels = logits.detach().contiguous(), labels.contiguous()
    gradient = torch.empty_like(logits)
    if gradient.numel():
        launch(logits, labels, gradient, grad.detach(), alpha, gamma, True)
    return gradient
