import math
from functools import partial

import pytest
import torch
from ops_contract import assert_close, check_against_reference, generator
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from detectron2.ops import dispatch, sigmoid_focal_loss


def random_case(rows, classes, device="cpu", dtype=torch.float32):
    logits = torch.randn(rows, classes, generator=generator("focal", rows, classes)) * 4 - 2
    labels = torch.randint(-1, classes + 1, (rows,), generator=generator("labels", rows))
    return logits.to(device, dtype).requires_grad_(True), labels.to(device)


def by_definition(logits, labels, alpha, gamma):
    """Equation (5) of the paper, with one-hot targets."""
    classes = logits.shape[1]
    taking_part = labels >= 0
    targets = one_hot(labels[taking_part].clamp(max=classes), classes + 1)[:, :classes]
    targets, logits = targets.to(logits), logits[taking_part]
    p = logits.sigmoid()
    p_t = torch.where(targets == 1, p, 1 - p)
    alpha_t = torch.where(targets == 1, alpha, 1 - alpha) if alpha >= 0 else 1
    cross_entropy = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (alpha_t * (1 - p_t) ** gamma * cross_entropy).sum()


@pytest.mark.parametrize("implementation", ["numba", "reference"])
@pytest.mark.parametrize("alpha", [0.25, -1.0])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_is_the_formula_of_the_paper(implementation, alpha, gamma):
    logits, labels = random_case(50, 7)
    expected = by_definition(logits.double(), labels, alpha, gamma)
    with dispatch.use_implementation(implementation):
        actual = sigmoid_focal_loss(logits, labels, alpha, gamma)
        gradient = torch.autograd.grad(actual, logits)[0]
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=0)
    assert_close(gradient, torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize("gamma", [1.5, 2.0])
@pytest.mark.parametrize("classes", [0, 1, 80])
def test_matches_reference(kernel, count, classes, gamma):
    logits, labels = random_case(count, classes, kernel.device)
    op = partial(sigmoid_focal_loss, gamma=gamma)
    check_against_reference(op, kernel, logits, labels, leaves=("logits",))


def test_matches_reference_in_every_dtype(kernel, dtype):
    logits, labels = random_case(30, 81, kernel.device, dtype)
    strided = logits.detach().T.contiguous().T.requires_grad_(True)
    for one in (logits, strided):
        loss = check_against_reference(sigmoid_focal_loss, kernel, one, labels, leaves=("logits",))
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_small_losses_are_exact_to_the_last_digits(kernel):
    # Confident background: the loss is about exp(3 x), and any error of exp or log shows.
    logits = torch.linspace(-25, -1, 400, device=kernel.device)[:, None]
    labels = torch.ones(1, dtype=torch.int64, device=kernel.device)
    for row in logits.split(100 if kernel.is_interpreted else 10):
        with kernel.active():
            actual = sigmoid_focal_loss(row[:1], labels, -1.0, 2.0)
        expected = sigmoid_focal_loss(row[:1].double(), labels, -1.0, 2.0)
        assert actual.item() == pytest.approx(expected.item(), rel=2e-6, abs=1e-37)


@pytest.mark.parametrize("value", [-1e4, -200.0, 200.0, 1e4])
def test_extreme_logits_stay_finite(kernel, value):
    logits = torch.full((2, 4), value, device=kernel.device, requires_grad=True)
    labels = torch.tensor([0, 4], device=kernel.device)
    for gamma in (2.0, 0.5):
        op = partial(sigmoid_focal_loss, gamma=gamma)
        loss = check_against_reference(op, kernel, logits, labels, leaves=("logits",))
        assert loss.isfinite()


def test_convention_a_nan_is_not_lost(kernel):
    logits = torch.zeros(9, 5, device=kernel.device, requires_grad=True)
    labels = torch.full((9,), 5, device=kernel.device)
    with torch.no_grad():
        logits[3, 2] = math.nan
    with kernel.active():
        loss = sigmoid_focal_loss(logits, labels)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isnan() and gradient.isnan().nonzero().tolist() == [[3, 2]]
        labels[3] = -1  # unless it takes no part
        assert sigmoid_focal_loss(logits, labels).isfinite()


def test_gradient_is_right():
    logits, labels = random_case(6, 3, dtype=torch.float64)
    for gamma in (0.0, 1.5, 2.0):
        assert torch.autograd.gradcheck(
            lambda one, gamma=gamma: sigmoid_focal_loss(one, labels, 0.3, gamma), logits
        )


def test_threads_do_not_change_the_sum():
    logits, labels = random_case(3000, 80)
    before = torch.get_num_threads()
    try:
        losses = set()
        for threads in (1, 3):
            torch.set_num_threads(threads)
            losses.add(sigmoid_focal_loss(logits, labels).item())
    finally:
        torch.set_num_threads(before)
    assert len(losses) == 1


def test_torch_op_is_registered_correctly(kernel):
    logits, labels = random_case(3, 4, kernel.device)
    grad = torch.tensor(2.0, device=kernel.device)
    ops = torch.ops.detectron2
    with kernel.active():
        torch.library.opcheck(ops.sigmoid_focal_loss, (logits, labels, 0.25, 2.0))
        torch.library.opcheck(
            ops.sigmoid_focal_loss_backward, (grad, logits.detach(), labels, 0.25, 2.0)
        )


def test_a_second_gradient_of_the_kernel_is_refused():
    logits, labels = random_case(3, 4)
    (gradient,) = torch.autograd.grad(sigmoid_focal_loss(logits, labels), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="sigmoid_focal_loss have no second gradient"):
        gradient.sum().backward()


def test_wrong_arguments_are_named():
    logits, labels = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"shape \(3, 4\) and labels \(2,\); expected \(M, C\)"):
        sigmoid_focal_loss(logits, labels[:2])
    with pytest.raises(TypeError, match="labels has dtype torch.float32"):
        sigmoid_focal_loss(logits, labels.float())
    with pytest.raises(TypeError, match="logits has dtype torch.int64"):
        sigmoid_focal_loss(logits.long(), labels)
    with pytest.raises(ValueError, match="gamma is -1; use 0"):
        sigmoid_focal_loss(logits, labels, 0.25, -1)
