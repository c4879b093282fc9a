"""Winograd's convolution against PyTorch's."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from ops_contract import assert_close, generator, laid_out

from detectron2.ops import dispatch, winograd_conv
from detectron2.ops.winograd_conv import transform_weight, winograd_weight_gradient

# Imported by its path: the package has a function of the name of its folder.
cpu = importlib.import_module("detectron2.ops.winograd_conv.cpu")

# height and width around the tile of 4 x 4 cells, and more tiles than one chunk holds
SIZES = [(1, 1), (3, 9), (4, 4), (5, 7), (70, 70)]


@pytest.fixture(autouse=True)
def chunks_of_a_hundred_tiles(monkeypatch):
    for name, value in (("FEWEST_TILES", 100), ("CHUNK_BYTES", 0), ("GRADIENT_CHUNK_BYTES", 0)):
        monkeypatch.setattr(cpu, name, value)


def layer(channels_in, channels_out, dtype=torch.float32):
    random = generator("weight", channels_in, channels_out)
    deviation = (2 / (9 * channels_in)) ** 0.5
    weight = torch.randn(channels_out, channels_in, 3, 3, generator=random) * deviation
    return weight.to(dtype), torch.randn(channels_out, generator=random).to(dtype)


def image(images, channels, size, dtype=torch.float32):
    random = generator("input", images, channels, size)
    return torch.randn(images, channels, *size, generator=random).to(dtype)


@pytest.mark.parametrize("implementation", ["numba", "reference"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [(1, 1), (3, 40), (17, 8)], ids=str)
def test_equals_direct_convolution(implementation, size, channels):
    x = image(2, channels[0], size, torch.float64)
    weight, bias = layer(*channels, torch.float64)
    with dispatch.use_implementation(implementation):
        actual = winograd_conv(x, transform_weight(weight), bias)
    assert_close(actual.contiguous(), F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize("implementation", ["numba", "reference"])
def test_error_in_float32_is_below_3e5_of_the_largest_output(implementation):
    x = image(1, 256, (21, 34))
    weight, bias = layer(256, 64)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    with dispatch.use_implementation(implementation):
        actual = winograd_conv(x, transform_weight(weight), bias)
    assert (actual - exact).abs().max() < 3e-5 * exact.abs().max()


@pytest.mark.parametrize("implementation", ["numba", "reference"])
@pytest.mark.parametrize("size", [*SIZES, (2, 6), (0, 5)], ids=str)
@pytest.mark.parametrize("channels", [(1, 1), (3, 40), (17, 8)], ids=str)
def test_the_weights_gradient_equals_that_of_direct_convolution(implementation, size, channels):
    x = image(2, channels[0], size, torch.float64)
    weight = layer(*channels, torch.float64)[0].requires_grad_()
    gradient = image(2, channels[1], size, torch.float64)
    expected = torch.zeros_like(weight)
    if min(size) > 0:
        (expected,) = torch.autograd.grad(F.conv2d(x, weight, padding=1), weight, gradient)
    with dispatch.use_implementation(implementation):
        actual = winograd_weight_gradient(x, gradient)
    assert_close(actual.contiguous(), expected)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "strided"])
def test_the_weights_gradient_reads_any_memory(memory):
    x, gradient = image(2, 130, (30, 33)), image(2, 129, (30, 33))
    expected = winograd_weight_gradient(x.double(), gradient.double())
    actual = winograd_weight_gradient(laid_out(x, memory), laid_out(gradient, memory))
    assert (actual - expected).abs().max() < 3e-5 * expected.abs().max()


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "strided"])
def test_reads_any_memory_and_writes_channels_last(memory):
    x = image(2, 5, (6, 9))
    weight, bias = layer(5, 7)
    actual = winograd_conv(laid_out(x, memory), transform_weight(weight), bias)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, F.conv2d(x, weight, bias, padding=1), rtol=0, atol=1e-5)


def test_relu_clips_at_zero_and_keeps_nan():
    x = image(1, 4, (9, 9))
    x[0, :, 8, 8] = torch.nan
    weight, bias = layer(4, 6)
    actual = winograd_conv(x, transform_weight(weight), bias, relu=True)
    expected = F.relu(F.conv2d(x, weight, bias, padding=1))
    assert actual[..., 7:, 7:].isnan().all()
    torch.testing.assert_close(actual[..., :4, :4], expected[..., :4, :4], rtol=0, atol=1e-5)


def test_without_bias():
    x = image(1, 4, (5, 5))
    weight, _ = layer(4, 6)
    actual = winograd_conv(x, transform_weight(weight))
    torch.testing.assert_close(actual, F.conv2d(x, weight, padding=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)], ids=str)
def test_no_cells_give_no_cells(size):
    weight, bias = layer(4, 6)
    assert winograd_conv(image(2, 4, size), transform_weight(weight), bias).shape == (2, 6, *size)
    assert winograd_conv(image(0, 4, (5, 5)), transform_weight(weight)).shape == (0, 6, 5, 5)


def test_wrong_arguments_are_named():
    weight, _ = layer(4, 6)
    with pytest.raises(ValueError, match=r"takes \(K, C, 3, 3\)"):
        transform_weight(weight[..., :2])
    with pytest.raises(ValueError, match=r"expected \(36, 5, K\)"):
        winograd_conv(image(1, 5, (5, 5)), transform_weight(weight))
    with pytest.raises(TypeError, match="float64"):
        winograd_conv(image(1, 4, (5, 5), torch.float64), transform_weight(weight))
    with pytest.raises(ValueError, match="all but the channels"):
        winograd_weight_gradient(image(1, 5, (5, 5)), image(1, 5, (5, 6)))


def test_is_a_well_behaved_torch_op():
    weight, bias = layer(4, 6)
    arguments = (image(1, 4, (5, 7)), transform_weight(weight), bias, True)
    torch.library.opcheck(torch.ops.detectron2.winograd_conv, arguments)
    arguments = (image(1, 4, (5, 7)), image(1, 3, (5, 7)))
    torch.library.opcheck(torch.ops.detectron2.winograd_weight_gradient, arguments)
