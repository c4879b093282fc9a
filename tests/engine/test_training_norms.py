"""Frozen normalization that keeps its constants computes what the plain one does."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from detectron2.config.training_defaults import TRAINING
from detectron2.engine import _prepare_model
from detectron2.engine._recipe import _merged
from detectron2.engine.inference import optimize_for_inference
from detectron2.engine.inference.convolutions import FusedConv2d
from detectron2.engine.training_norms import KeptFrozenBatchNorm2d, keep_constants_of_norms
from detectron2.layers import Conv2d, FrozenBatchNorm2d


def norms():
    """A plain one and one that keeps, equal."""
    plain = FrozenBatchNorm2d(4)
    for buffer in plain.buffers():
        buffer.copy_(torch.rand(4) + 0.5)
    kept = nn.Sequential(copy.deepcopy(plain))
    keep_constants_of_norms(kept)
    assert type(kept[0]) is KeptFrozenBatchNorm2d
    return plain, kept[0]


def value_and_gradient(norm, images):
    leaf = images.clone().requires_grad_()
    result = norm(leaf)
    return result.detach(), torch.autograd.grad(result.square().sum(), leaf)[0]


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += "view" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_those_of_the_plain_one_also_after_its_buffers_change(dtype):
    plain, kept = norms()
    images = torch.randn(2, 4, 3, 3).to(dtype)
    for _ in range(2):
        for _ in range(2):
            actual, expected = (value_and_gradient(norm, images) for norm in (kept, plain))
            assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])
        for norm in (plain, kept):
            norm.load_state_dict({name: value * 2 for name, value in norm.state_dict().items()})
    assert torch.equal(kept(images), plain(images))


def test_constants_are_those_of_the_type_of_the_images():
    plain, kept = norms()
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        images = torch.randn(2, 4, 3, 3).to(dtype)
        value, expected = (value_and_gradient(norm, images)[0] for norm in (kept, plain))
        assert value.dtype == dtype and torch.equal(value, expected)


def test_the_second_step_is_one_operation():
    _, kept = norms()
    images = torch.randn(2, 4, 3, 3, requires_grad=True)
    counts = []
    for _ in range(3):
        with Count() as count:
            kept(images)
        counts.append(count.operations)
    assert counts[0] > 4 and counts[1:] == [1, 1]
    with torch.inference_mode():
        kept(images)
    kept(images).sum().backward()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_make_their_own(again):
    plain, kept = norms()
    images = torch.randn(2, 4, 3, 3)
    value_and_gradient(kept, images)
    other = again(kept)
    assert other._kept is None and torch.equal(
        value_and_gradient(other, images)[0], value_and_gradient(plain, images)[0]
    )


def test_buffers_that_lie_where_others_did_before_take_effect():
    kept = nn.Sequential(FrozenBatchNorm2d(4096))
    keep_constants_of_norms(kept)
    images = torch.zeros(1, 4096, 1, 1, requires_grad=True)
    for number in range(40):
        kept(images)
        kept[0].running_mean = torch.empty(0)
        kept[0].running_mean = torch.full((4096,), float(-number))
        assert torch.equal(kept(images).flatten(), -kept[0].running_mean)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_it_is_scripted_as_the_plain_one():
    plain, kept = norms()
    images = torch.randn(2, 4, 3, 3)
    value_and_gradient(kept, images)
    assert torch.equal(torch.jit.script(kept)(images), plain(images))
    assert type(kept) is KeptFrozenBatchNorm2d


def test_it_is_exported_and_compiled_as_the_plain_one():
    plain, kept = norms()
    images = torch.randn(2, 4, 3, 3, requires_grad=True)
    expected = plain(images)
    exported = torch.export.export(kept, (images,)).module()
    compiled = torch.compile(kept, backend="eager", fullgraph=True)
    assert torch.equal(exported(images), expected) and torch.equal(compiled(images), expected)
    assert kept._kept is None


@pytest.mark.parametrize(
    ("compiled", "expected"), [(False, KeptFrozenBatchNorm2d), (True, FrozenBatchNorm2d)]
)
def test_a_training_on_a_gpu_keeps_them_unless_it_is_compiled(compiled, expected, monkeypatch):
    monkeypatch.setattr(_prepare_model, "_is_on", lambda model, device_type: device_type == "cuda")
    model = nn.Module()
    model.backbone = nn.Sequential(Conv2d(2, 4, 3, norm=FrozenBatchNorm2d(4)))
    options = {"COMPILE": {"ENABLED": compiled, "BACKEND": "eager"}}
    _prepare_model.prepare_model(model, _merged(TRAINING, options))
    assert type(model.backbone[0].norm) is expected


def test_it_is_folded_for_inference():
    model = nn.Sequential(Conv2d(2, 4, 3, norm=norms()[1])).eval()
    fast = optimize_for_inference(model)
    assert isinstance(fast[0], FusedConv2d) and fast[0].folds_everything()
    images = torch.rand(1, 2, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images))
