import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2.layers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Linear,
    ShapeSpec,
    cat,
    cross_entropy,
    empty_input_loss_func_wrapper,
    interpolate,
    move_device_like,
    nonzero_tuple,
    shapes_to_tensor,
)
from detectron2.layers.wrappers import (
    _NewEmptyTensorOp,
    check_if_dynamo_compiling,
    disable_torch_compiler,
)


def test_conv_runs_norm_then_activation():
    norm = BatchNorm2d(4).eval()
    conv = Conv2d(3, 4, kernel_size=3, padding=1, bias=False, norm=norm, activation=F.relu)
    x = torch.randn(2, 3, 5, 5)
    assert_close(conv(x), F.relu(norm(F.conv2d(x, conv.weight, padding=1))))
    assert isinstance(conv, nn.Conv2d)
    assert sorted(conv.state_dict())[0] == "norm.bias"


def test_conv_alone_is_a_convolution():
    conv = Conv2d(3, 4, 1)
    assert conv.norm is None and conv.activation is None
    assert sorted(conv.state_dict()) == ["bias", "weight"]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (Conv2d(3, 8, 3, stride=2, padding=1, norm=BatchNorm2d(8).eval()), (3, 9, 9), (8, 5, 5)),
        (ConvTranspose2d(3, 5, 2, stride=2), (3, 4, 4), (5, 8, 8)),
        (Linear(6, 2), (6,), (2,)),
        (BatchNorm2d(3).eval(), (3, 4, 4), (3, 4, 4)),
    ],
)
def test_empty_batches_pass_through_with_a_gradient(layer, shape, expected):
    x = torch.zeros(0, *shape, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, *expected)
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_cat_of_one_tensor_is_that_tensor():
    x = torch.ones(2, 3)
    assert cat([x]) is x
    assert cat((x, x), dim=1).shape == (2, 6)
    with pytest.raises(TypeError, match="list or tuple of tensors, not generator"):
        cat(t for t in [x])


def test_cross_entropy_of_nothing_is_zero_and_has_a_gradient():
    logits = torch.zeros(0, 3, requires_grad=True)
    targets = torch.zeros(0, dtype=torch.int64)
    loss = cross_entropy(logits, targets)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.shape == (0, 3)
    assert cross_entropy(logits, targets, reduction="none").shape == (0,)
    assert cross_entropy(logits, targets, reduction="sum").item() == 0


def test_cross_entropy_of_something_is_that_of_pytorch():
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    for options in ({}, {"reduction": "none"}, {"weight": torch.tensor([1.0, 2, 3])}):
        assert_close(
            cross_entropy(logits, targets, **options), F.cross_entropy(logits, targets, **options)
        )


def test_the_loss_wrapper_keeps_the_name_but_not_the_module():
    assert empty_input_loss_func_wrapper(F.binary_cross_entropy).__name__ == "binary_cross_entropy"
    assert cross_entropy.__module__ == "detectron2.layers.wrappers"


def test_nonzero_tuple_indexes_its_input():
    x = torch.tensor([[0, 3], [4, 0]])
    assert [index.tolist() for index in nonzero_tuple(x)] == [[0, 1], [1, 0]]
    assert [index.tolist() for index in nonzero_tuple(torch.tensor(5))] == [[0]]


def test_shapes_may_mix_integers_and_tensors():
    assert shapes_to_tensor([3, 4]).tolist() == [3, 4]
    assert shapes_to_tensor([3, 4]).dtype == torch.int64
    assert shapes_to_tensor([torch.tensor(3), 4], device="cpu").tolist() == [3, 4]


def test_move_device_like_follows_the_second(device):
    assert move_device_like(torch.ones(1), torch.ones(1, device=device)).device.type == device.type
    assert move_device_like(torch.ones(1), torch.ones(1, device="meta")).device.type == "meta"


def test_interpolate_is_that_of_pytorch():
    assert interpolate(torch.ones(1, 1, 2, 2), scale_factor=2).shape == (1, 1, 4, 4)


def test_check_if_dynamo_compiling_tells_compiled_from_eager():
    def probe(x):
        return x + 1 if check_if_dynamo_compiling() else x

    compiled = torch.compile(probe, backend="eager")
    assert probe(torch.zeros(1)).item() == 0
    assert compiled(torch.zeros(1)).item() == 1


def test_disabled_functions_stay_out_of_compiled_graphs():
    seen = []

    @disable_torch_compiler
    def probe(x):
        seen.append(check_if_dynamo_compiling())
        return x + 1

    compiled = torch.compile(lambda x: probe(x) * 2, backend="eager")
    assert compiled(torch.zeros(1)).item() == 2
    assert seen == [False]


def test_convention_new_empty_tensor_op_keeps_the_graph():
    x = torch.zeros(0, 3, 4, 4, requires_grad=True)
    y = _NewEmptyTensorOp.apply(x, (0, 5, 2, 2))
    assert y.shape == (0, 5, 2, 2)
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_shape_spec_is_a_value():
    spec = ShapeSpec(channels=3, stride=4)
    assert spec == ShapeSpec(3, None, None, 4) == copy.deepcopy(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert spec != ShapeSpec(channels=3)
