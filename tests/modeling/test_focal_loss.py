import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from torch.testing import assert_close

from detectron2.modeling.meta_arch._focal_loss import dense_focal_loss

K = 4


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    logits = [(torch.randn(2, rows, K) * 3).to(dtype).requires_grad_() for rows in (9, 5, 0)]
    labels = torch.randint(-1, K + 1, (2, 14))
    return logits, labels


def by_definition(logits, labels, alpha, gamma):
    valid = labels >= 0
    targets = torch.nn.functional.one_hot(labels[valid], K + 1)[:, :K]
    rows = torch.cat(logits, dim=1)[valid].float()
    return sigmoid_focal_loss(rows, targets.float(), alpha, gamma, reduction="sum")


@pytest.mark.parametrize("alpha", [0.25, -1.0])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_loss_and_gradient_are_the_formula(alpha, gamma):
    logits, labels = inputs()
    expected = by_definition(logits, labels, alpha, gamma)
    gradients = torch.autograd.grad(3 * expected, logits)
    loss = dense_focal_loss(logits, labels, alpha, gamma)
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(3 * loss, logits), gradients)


def test_half_precision_is_summed_in_float32():
    logits, labels = inputs(torch.bfloat16)
    loss = dense_focal_loss(logits, labels, 0.25, 2.0)
    assert loss.dtype == torch.float32
    assert_close(loss, by_definition(logits, labels, 0.25, 2.0))
    assert torch.autograd.grad(loss, logits[0])[0].dtype == torch.bfloat16


@pytest.mark.parametrize("value", [-200.0, 200.0])
def test_extreme_logits_stay_finite(value):
    logits = [torch.full((1, 2, K), value, requires_grad=True)]
    loss = dense_focal_loss(logits, torch.tensor([[0, K]]), 0.25, 2.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all()


def test_nothing_is_kept_for_a_gradient_that_nobody_wants():
    logits, labels = inputs()
    loss = dense_focal_loss([level.detach() for level in logits], labels, 0.25, 2.0)
    assert not loss.requires_grad
    assert_close(loss, by_definition(logits, labels, 0.25, 2.0).detach())
