import copy

import pytest
import torch
from torch import nn

from detectron2.config.training_defaults import TRAINING
from detectron2.engine import _prepare_model
from detectron2.engine._prepare_model import prepare_model
from detectron2.engine._recipe import _merged
from detectron2.engine.training_blocks import speed_up_convolutions
from detectron2.engine.training_convolutions import TrainingConv2d, _FusedConvolution
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock


def norm_of(channels):
    norm = FrozenBatchNorm2d(channels)
    for buffer in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        buffer.uniform_(0.5, 1.5)
    return norm


MODELS = {
    "winograd": lambda: Conv2d(128, 136, 3, padding=1, activation=nn.functional.relu_),
    "winograd, norm": lambda: Conv2d(128, 128, 3, padding=1, bias=False, norm=norm_of(128)),
    "product": lambda: Conv2d(128, 16, 1, norm=norm_of(16), activation=nn.ReLU()),
    "product, stride": lambda: Conv2d(128, 16, 1, stride=2),
    "groups": lambda: Conv2d(128, 16, 3, padding=2, dilation=2, groups=4, activation=torch.tanh),
    "batch norm": lambda: Conv2d(128, 16, 3, stride=2, bias=False, norm=get_norm("BN", 16)),
    "basic": lambda: BasicBlock(128, 128, norm=norm_of),
    "basic, shortcut": lambda: BasicBlock(128, 64, stride=2, norm=norm_of),
    "bottleneck": lambda: BottleneckBlock(128, 128, bottleneck_channels=128, norm=norm_of),
    "bottleneck, shortcut": lambda: BottleneckBlock(
        128, 32, bottleneck_channels=16, stride=2, stride_in_1x1=True, norm=norm_of
    ),
    "stem": lambda: BasicStem(128, 16, norm=norm_of),
}


def numbers_of(model, images):
    """Output and gradients of a step."""
    images = images.clone().requires_grad_()
    out = model(images)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out * weights).sum().backward()
    return [out.detach(), images.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("kind", MODELS)
def test_fast_convolutions_have_the_numbers_of_direct_ones(kind):
    torch.manual_seed(0)
    model = MODELS[kind]().train()
    images = torch.randn(2, 128, 33, 29)
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)
    count = speed_up_convolutions(fast)
    assert count == sum(isinstance(module, Conv2d) for module in model.modules())
    assert list(fast.state_dict()) == list(model.state_dict())
    for actual, expected in zip(numbers_of(fast, images), numbers_of(model, images), strict=True):
        assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()
    for parameter in fast.parameters():  # what DistributedDataParallel wants
        assert parameter.grad.stride() == parameter.stride()
    frozen = fast.requires_grad_(False)
    out = model(images)
    assert (frozen(images) - out).abs().max() < 1e-4 * out.abs().max()


def test_it_runs_only_where_it_is_understood(monkeypatch):
    calls = []
    original = _FusedConvolution.apply
    monkeypatch.setattr(
        _FusedConvolution, "apply", lambda *a: calls.append(a[-1].kind) or original(*a)
    )
    conv = Conv2d(128, 128, 3, padding=1, norm=FrozenBatchNorm2d(128))
    speed_up_convolutions(conv)
    images = torch.randn(1, 128, 40, 40)
    conv(images)
    conv(images[:, :, :9, :9])  # too small for Winograd
    assert calls == ["winograd", "direct"]
    with torch.autocast("cpu", torch.bfloat16):
        conv(images)
    assert conv(images[:0]).shape == (0, 128, 40, 40)
    conv.eval()(images)
    conv.train()
    heard = []
    listener = conv.norm.register_forward_hook(lambda *_: heard.append(1))
    conv(images)
    assert heard == [1] and len(calls) == 2
    listener.remove()
    conv(images)
    assert len(calls) == 3


def test_convolutions_of_blocks_that_somebody_listens_to_are_called():
    block = BottleneckBlock(8, 8, bottleneck_channels=8, norm=norm_of)
    speed_up_convolutions(block)
    heard = []
    block.conv2.register_forward_hook(lambda *_: heard.append(1))
    block(torch.randn(1, 8, 8, 8)).sum().backward()
    assert heard == [1]


def test_the_trainer_uses_fast_convolutions_on_a_cpu():
    for wanted in (True, False):
        model = nn.Sequential(Conv2d(128, 128, 3, padding=1))
        prepare_model(model, _merged(TRAINING, {"FAST_CONVOLUTIONS": wanted}))
        assert isinstance(model[0], TrainingConv2d) is wanted
        weight = model[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is wanted


def test_blocks_that_are_recomputed_run_fast_too():
    options = {"ACTIVATION_CHECKPOINTING": True}
    torch.manual_seed(0)
    model = nn.Sequential(BottleneckBlock(16, 16, bottleneck_channels=16, norm=norm_of)).train()
    images = torch.randn(1, 16, 12, 12)
    expected = numbers_of(copy.deepcopy(model), images)
    prepare_model(model, _merged(TRAINING, options))
    for actual, wanted in zip(numbers_of(model, images), expected, strict=True):
        assert (actual - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("half", [True, False])
def test_convention_on_a_gpu_weights_are_channels_last_in_mixed_precision(half, monkeypatch):
    monkeypatch.setattr(_prepare_model, "_is_on", lambda model, device_type: device_type == "cuda")
    model = nn.Sequential(Conv2d(128, 128, 3, padding=1))
    prepare_model(model, TRAINING, mixed_precision=half)
    assert type(model[0]) is Conv2d
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) is half


def test_weights_that_will_be_sharded_keep_their_order():
    model = nn.Sequential(Conv2d(128, 128, 3, padding=1))
    prepare_model(model, _merged(TRAINING, {"FSDP": {"ENABLED": True}}))
    assert model[0].weight.is_contiguous()
    with pytest.raises(ValueError, match="CHANNELS_LAST and TRAINING.FSDP"):
        prepare_model(model, _merged(TRAINING, {"FSDP": {"ENABLED": True}, "CHANNELS_LAST": True}))
