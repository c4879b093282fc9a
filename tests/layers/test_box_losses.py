import math

import fvcore.nn
import pytest
import torch
from torch.testing import assert_close

from detectron2.layers import ciou_loss, diou_loss
from detectron2.layers.losses import giou_loss

LOSSES = [diou_loss, ciou_loss, giou_loss]


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_boxes_lose_nothing(loss):
    box = boxes([1, 2, 5, 9])
    assert_close(loss(box, box), torch.zeros(1), atol=1e-5, rtol=0)


def test_diou_of_boxes_that_anyone_can_check():
    # Two squares of side 2, one shifted by 1: IoU 1/3; centres 1 apart, diagonal² 9 + 4.
    loss = diou_loss(boxes([0, 0, 2, 2]), boxes([1, 0, 3, 2]))
    assert_close(loss, torch.tensor([1 - 1 / 3 + 1 / 13]))


def test_giou_and_its_gradient_are_those_of_fvcore():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 300, 2, generator=generator) * 8
    sides = torch.rand(2, 300, 2, generator=generator) * 4
    first, second = torch.cat([corners, corners + sides], dim=2)
    results = []
    for loss in (giou_loss, fvcore.nn.giou_loss):
        box = first.clone().requires_grad_()
        value = loss(box, second)
        value.sum().backward()
        results.append((value.detach(), box.grad))
    assert_close(*results)


def test_ciou_adds_the_difference_of_aspect_ratios():
    square, flat = boxes([0, 0, 2, 2]), boxes([-1, 0.5, 3, 1.5])  # same centre, IoU 2 / 6
    v = 4 / math.pi**2 * (math.atan(4) - math.atan(1)) ** 2
    alpha = v / (1 - 1 / 3 + v)
    assert_close(ciou_loss(square, flat) - diou_loss(square, flat), torch.tensor([alpha * v]))


@pytest.mark.parametrize("loss", LOSSES)
def test_reductions(loss):
    first = torch.rand(7, 2).repeat(1, 2) + torch.tensor([0, 0, 3, 4])
    second = torch.rand(7, 2).repeat(1, 2) + torch.tensor([0, 0, 4, 3])
    each = loss(first, second)
    assert each.shape == (7,)
    assert_close(loss(first, second, reduction="sum"), each.sum())
    assert_close(loss(first, second, reduction="mean"), each.mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_the_mean_of_nothing_is_zero_with_a_gradient(loss):
    nothing = torch.zeros(0, 4, requires_grad=True)
    mean = loss(nothing, nothing.detach(), reduction="mean")
    mean.backward()
    assert mean.item() == 0 and nothing.grad.shape == (0, 4)


@pytest.mark.parametrize("loss", LOSSES)
def test_boxes_without_area_have_finite_losses_and_gradients(loss):
    first = boxes([3, 3, 3, 3], [0, 0, 4, 4]).requires_grad_()
    value = loss(first, boxes([1, 1, 2, 5], [2, 2, 2, 2]), reduction="sum")
    value.backward()
    assert value.isfinite() and first.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_boxes_that_do_not_overlap_are_pulled_together(loss):
    box, goal = boxes([0, 0, 3, 5]).requires_grad_(), boxes([6, 2, 12, 5])
    before = loss(box, goal, reduction="sum")
    before.backward()
    assert box.grad[0, 2] < 0  # the near side is to move right
    assert loss(box.detach() - 0.1 * box.grad, goal).item() < before.item()


def test_diou_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    first = (corners + torch.tensor([0.0, 0, 2, 2])).requires_grad_()
    second = corners.flip(0) + torch.tensor([0.5, 0, 2.5, 3])
    assert torch.autograd.gradcheck(lambda b: diou_loss(b, second), first)
