import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2.layers import (
    ASPP,
    CNNBlockBase,
    Conv2d,
    DepthwiseSeparableConv2d,
    FrozenBatchNorm2d,
)


class Block(CNNBlockBase):
    def __init__(self):
        super().__init__(3, 4, stride=2)
        self.conv = Conv2d(3, 4, 3, stride=2, norm=nn.BatchNorm2d(4))


def test_a_frozen_block_has_no_trainable_parameter_and_constant_norms():
    block = Block()
    assert (block.in_channels, block.out_channels, block.stride) == (3, 4, 2)
    assert block.freeze() is block
    assert isinstance(block.conv.norm, FrozenBatchNorm2d)
    assert not any(parameter.requires_grad for parameter in block.parameters())


def test_depthwise_separable_is_two_convolutions():
    conv = DepthwiseSeparableConv2d(
        6, 10, padding=2, dilation=2, norm1="BN", activation1=F.relu, activation2=torch.tanh
    ).eval()
    x = torch.randn(1, 6, 7, 7)
    depthwise = F.conv2d(x, conv.depthwise.weight, padding=2, dilation=2, groups=6)
    expected = F.relu(conv.depthwise.norm(depthwise))
    expected = torch.tanh(F.conv2d(expected, conv.pointwise.weight, conv.pointwise.bias))
    assert_close(conv(x), expected)
    assert conv.depthwise.bias is None  # its norm has one
    assert conv.pointwise.weight.shape == (10, 6, 1, 1)


class TestASPP:
    @pytest.mark.parametrize("separable", [False, True])
    @pytest.mark.parametrize("window", [None, (16, 20), (8, 10)])
    def test_the_size_stays(self, separable, window):
        aspp = ASPP(
            8,
            12,
            [2, 4],
            norm="BN",
            activation=nn.ReLU(),
            pool_kernel_size=window,
            use_depthwise_separable_conv=separable,
        )
        assert aspp.eval()(torch.randn(2, 8, 16, 20)).shape == (2, 12, 16, 20)

    def test_it_fuses_views_at_several_scales(self):
        aspp = ASPP(4, 6, [2, 3], norm="", activation=F.relu).eval()
        x = torch.randn(2, 4, 9, 9)
        one, two, three, (_, pooled), project = (*aspp.convs, aspp.project)
        mean = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), pooled.weight, pooled.bias))
        views = [
            F.relu(F.conv2d(x, one.weight, one.bias)),
            F.relu(F.conv2d(x, two.weight, two.bias, padding=2, dilation=2)),
            F.relu(F.conv2d(x, three.weight, three.bias, padding=3, dilation=3)),
            mean.expand(2, 6, 9, 9),
        ]
        expected = F.relu(F.conv2d(torch.cat(views, 1), project.weight, project.bias))
        assert_close(aspp(x), expected, rtol=1e-4, atol=1e-5)

    def test_the_pooled_view_has_a_bias_and_no_norm(self):
        aspp = ASPP(4, 6, [2], norm="BN", activation=F.relu)
        assert aspp.convs[-1][1].norm is None and aspp.convs[-1][1].bias is not None
        assert aspp.convs[0].norm is not None and aspp.convs[0].bias is None

    def test_an_input_that_is_no_multiple_of_the_window_is_refused(self):
        aspp = ASPP(4, 6, [2], norm="", activation=F.relu, pool_kernel_size=(8, 10))
        with pytest.raises(ValueError, match=r"windows of \(8, 10\) cells.* it is \(16, 21\)"):
            aspp(torch.zeros(1, 4, 16, 21))

    @pytest.mark.parametrize("size", [(16, 21), (9, 30), (5, 30), (5, 6)])
    def test_images_of_any_size_are_seen_in_inference(self, size):
        aspp = ASPP(4, 6, [2], norm="", activation=F.relu, pool_kernel_size=(8, 10)).eval()
        assert aspp(torch.zeros(1, 4, *size)).shape == (1, 6, *size)

    def test_a_map_smaller_than_the_window_is_averaged_whole(self):
        aspp = ASPP(4, 6, [2], norm="", activation=F.relu, pool_kernel_size=(8, 10)).eval()
        x = torch.rand(1, 4, 5, 6)
        expected = aspp(x)
        aspp.pool_kernel_size, aspp.convs[-1][0] = None, nn.AdaptiveAvgPool2d(1)
        assert_close(aspp(x), expected)

    def test_dropout_acts_in_training_only(self):
        aspp = ASPP(4, 6, [2], norm="", activation=torch.exp, dropout=0.5)
        x = torch.randn(1, 4, 8, 8)
        assert (aspp(x) == 0).any()
        assert not (aspp.eval()(x) == 0).any()

    def test_activations_are_copies(self):
        activation = nn.PReLU()
        aspp = ASPP(4, 6, [2], norm="", activation=activation)
        assert len({id(m) for m in aspp.modules() if isinstance(m, nn.PReLU)}) == 4
