import itertools

import pytest
import torch
from torch import nn

from detectron2.engine.lr_finder import find_learning_rate


class Bowl(nn.Module):
    """Curvature / 2 * distance squared: gradient descent diverges above 2 / curvature."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0]))

    def forward(self, curvature):
        return {"loss": curvature / 2 * self.weight.square().sum()}


def test_the_steepest_rate_lies_below_divergence_and_nothing_changes():
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.0)
    found = find_learning_rate(model, itertools.repeat(torch.tensor(10.0)), optimizer, highest=10)
    assert 0.005 < found.suggested < 0.2
    assert found.rates[-1] < 2 and len(found.rates) == len(found.losses) < 100
    assert model.weight.item() == 3.0 and optimizer.param_groups[0]["lr"] == 0.7


def test_a_loss_that_is_never_finite_is_explained():
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="not finite from the beginning"):
        find_learning_rate(model, itertools.repeat(torch.tensor(float("nan"))), optimizer)
    with pytest.raises(ValueError, match="from 1 to"):
        find_learning_rate(model, [], optimizer, lowest=1, highest=0.1)
