"""Focal loss (RetinaNet, https://arxiv.org/abs/1708.02002, eq. 5) as one function of one number.

A logit is as bad for its own class as its opposite would be for the background. With s the
logit, or its opposite for the class that the row has, and p = sigmoid(s) how wrong that is, the
loss is ``p ** gamma * -log(1 - p)``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype

__all__ = [
    "class_weights",
    "sigmoid_focal_loss_backward_reference",
    "sigmoid_focal_loss_reference",
]

# Intermediate results are made for so many logits at a time.
LOGITS_AT_ONCE = 2**24


def class_weights(alpha: float) -> tuple[float, float]:
    """Weight of the class that a row has, and of the others."""
    return (alpha, 1 - alpha) if alpha >= 0 else (1.0, 1.0)


def signs_and_weights(logits: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(M, C) -1 for the class that a row has and 1 for the others, and the weight of each."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    own = labels[:, None] == classes  # (M, C)
    positive, negative = class_weights(alpha)
    weights = torch.where(own, positive, negative) * (labels >= 0)[:, None]
    return torch.where(own, -1, 1).to(logits.dtype), weights.to(logits.dtype)


def pieces(logits: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = max(LOGITS_AT_ONCE // max(logits.shape[1], 1), 1)
    return list(zip(logits.split(rows), labels.split(rows)))


def sigmoid_focal_loss_reference(
    logits: Tensor, labels: Tensor, alpha: float, gamma: float
) -> Tensor:
    """Scalar; see :func:`detectron2.ops.sigmoid_focal_loss`."""
    total = torch.zeros((), dtype=compute_dtype(logits.dtype), device=logits.device)
    for part, part_labels in pieces(logits, labels):
        part = part.to(total.dtype)
        signs, weights = signs_and_weights(part, part_labels, alpha)
        wrong = signs * part
        # By logarithms, which stay finite, as do their derivatives.
        focus = torch.exp(gamma * F.logsigmoid(wrong))
        total = total - (weights * focus * F.logsigmoid(-wrong)).sum()
    return total


def sigmoid_focal_loss_backward_reference(
    grad: Tensor, logits: Tensor, labels: Tensor, alpha: float, gamma: float
) -> Tensor:
    """(M, C) gradient of :func:`sigmoid_focal_loss_reference`, written out.

    d/ds of p ** gamma * softplus(s) is p ** gamma * (gamma * (1 - p) * softplus(s) + p).
    """
    gradients = [torch.zeros_like(logits[:0])]
    for part, part_labels in pieces(logits, labels):
        part = part.to(compute_dtype(logits.dtype))
        signs, weights = signs_and_weights(part, part_labels, alpha)
        wrong = signs * part
        focus = torch.exp(gamma * F.logsigmoid(wrong))
        cross_entropy = -F.logsigmoid(-wrong)
        slope = focus * (gamma * torch.sigmoid(-wrong) * cross_entropy + wrong.sigmoid())
        gradients.append((grad * signs * weights * slope).to(logits.dtype))
    return torch.cat(gradients)
