import pytest
import torch
from torch import nn

from detectron2.config.training_defaults import TRAINING
from detectron2.engine._prepare_model import prepare_model
from detectron2.engine._recipe import _merged
from detectron2.engine.training_convolutions import (
    WinogradConv2d,
    _WinogradConv,
    speed_up_convolutions,
)
from detectron2.layers import Conv2d


def test_fast_convolutions_have_the_numbers_of_direct_ones():
    torch.manual_seed(0)
    conv = Conv2d(128, 136, 3, padding=1, activation=nn.functional.relu_)
    narrow = Conv2d(8, 8, 3, padding=1)
    wide_step = Conv2d(128, 128, 3, padding=1, stride=2)
    images = torch.randn(2, 128, 57, 61, requires_grad=True)

    def step():
        images.grad = None
        conv.zero_grad()
        out = conv(images)
        out.square().sum().backward()
        return out.detach(), images.grad, conv.weight.grad, conv.bias.grad

    expected = step()
    model = nn.ModuleList([conv, narrow, wide_step])
    names = list(model.state_dict())
    assert speed_up_convolutions(model) == 1 and list(model.state_dict()) == names
    calls = []
    original = _WinogradConv.apply
    for fast, direct in zip(step(), expected, strict=True):
        assert (fast - direct).abs().max() < 1e-4 * direct.abs().max()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_WinogradConv, "apply", lambda *a: calls.append(1) or original(*a))
        conv(images)
        conv(images[:, :, :9, :9])  # too small to pay
        with torch.no_grad():
            conv(images)
        with torch.autocast("cpu", torch.bfloat16):
            conv(images)
        conv.eval()(images)
    assert calls == [1]


def test_the_trainer_uses_fast_convolutions_on_a_cpu():
    for wanted in (True, False):
        model = nn.Sequential(Conv2d(128, 128, 3, padding=1))
        prepare_model(model, _merged(TRAINING, {"FAST_CONVOLUTIONS": wanted}))
        assert isinstance(model[0], WinogradConv2d) is wanted
