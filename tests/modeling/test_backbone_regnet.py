import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.backbone import RegNet
from detectron2.modeling.backbone._regnet_blocks import SE
from detectron2.modeling.backbone.regnet import (
    AnyNet,
    ResBasicBlock,
    ResBottleneckBlock,
    ResStem,
    SimpleStem,
    VanillaBlock,
)


def stages(net):
    return [
        (len(net.get_submodule(n)), net.get_submodule(n)[0].out_channels)
        for n in ("s1", "s2", "s3", "s4")
    ]


@pytest.mark.parametrize(
    "line, expected, group_widths",
    [
        # RegNetX-4GF and RegNetY-4GF of the paper's tables.
        (
            {"depth": 23, "w_a": 38.65, "w_0": 96, "w_m": 2.43, "group_width": 40},
            [(2, 80), (5, 240), (14, 560), (2, 1360)],
            [40, 40, 40, 40],
        ),
        (
            {"depth": 22, "w_a": 31.41, "w_0": 96, "w_m": 2.24, "group_width": 64},
            [(2, 128), (6, 192), (12, 512), (2, 1088)],
            [64, 64, 64, 64],
        ),
        # RegNetY-200MF.
        (
            {"depth": 13, "w_a": 36.44, "w_0": 24, "w_m": 2.49, "group_width": 8},
            [(1, 24), (1, 56), (4, 152), (7, 368)],
            [8, 8, 8, 8],
        ),
        # The same line with groups wider than the first stage; widths become their multiples.
        (
            {"depth": 13, "w_a": 36.44, "w_0": 24, "w_m": 2.49, "group_width": 32},
            [(1, 24), (1, 64), (4, 160), (7, 384)],
            [24, 32, 32, 32],
        ),
    ],
)
def test_stages_are_those_of_the_paper(line, expected, group_widths):
    with torch.device("meta"):
        net = RegNet(stem_class=SimpleStem, stem_width=32, block_class=ResBottleneckBlock, **line)
    assert stages(net) == expected
    convs = [net.get_submodule(f"s{index}.b1.f.b") for index in (1, 2, 3, 4)]
    assert [conv.in_channels // conv.groups for conv in convs] == group_widths


def any_net(**kwargs):
    arguments = {
        "stem_class": SimpleStem,
        "stem_width": 8,
        "block_class": ResBottleneckBlock,
        "depths": [1, 2],
        "widths": [8, 16],
        "group_widths": [4, 8],
        "strides": [2, 2],
        "bottleneck_ratios": [1.0, 1.0],
        "se_ratio": 0.25,
        "activation_class": None,
    }
    return AnyNet(**{**arguments, **kwargs})


@pytest.mark.parametrize("stem, stride", [(SimpleStem, 2), (ResStem, 4)])
@pytest.mark.parametrize("block", [ResBottleneckBlock, ResBasicBlock, VanillaBlock])
def test_outputs_have_the_announced_shapes(stem, stride, block):
    net = any_net(stem_class=stem, block_class=block, out_features=["stem", "s1", "s2"]).eval()
    outputs = net(torch.rand(2, 3, 64, 32))
    assert [shape.stride for shape in net.output_shape().values()] == [
        stride,
        stride * 2,
        stride * 4,
    ]
    for name, shape in net.output_shape().items():
        assert outputs[name].shape == (2, shape.channels, 64 // shape.stride, 32 // shape.stride)


def test_the_last_stage_is_the_default_and_nothing_is_built_behind_the_outputs():
    assert any_net().output_shape() == {"s2": ShapeSpec(channels=16, stride=8)}
    assert not hasattr(any_net(out_features=["s1"]), "s2")


def test_residual_blocks_are_the_sum_of_transform_and_shortcut():
    block = ResBasicBlock(4, 4, 1, "BN", nn.ReLU, {}).eval()
    x = torch.randn(2, 4, 5, 5)
    assert block.proj is None
    assert_close(block(x), (x + block.f(x)).relu())
    block = ResBasicBlock(4, 6, 2, "BN", nn.ReLU, {}).eval()
    assert_close(block(x), (block.bn(block.proj(x)) + block.f(x)).relu())


def test_squeeze_and_excitation_scales_channels():
    se = SE(4, 2, nn.ReLU)
    x = torch.randn(2, 4, 3, 3)
    scale = se(x) / x
    assert_close(scale, scale[:, :, :1, :1].expand_as(scale))
    assert ((scale > 0) & (scale < 1)).all()


def test_squeeze_is_relative_to_the_input_of_the_block():
    net = any_net()
    assert net.s2.b1.f.se.f_ex[0].out_channels == 2  # 8 * 0.25
    assert net.s2.b2.f.se.f_ex[0].out_channels == 4
    assert any_net(se_ratio=0.0).s1.b1.f.se is None


@pytest.mark.parametrize("freeze_at, frozen", [(0, []), (1, ["stem"]), (2, ["stem", "s1"])])
def test_freezing_stops_gradients_and_statistics(freeze_at, frozen):
    net = any_net(freeze_at=freeze_at)
    for name, child in net.named_children():
        assert all(p.requires_grad == (name not in frozen) for p in child.parameters())
        assert any(isinstance(m, FrozenBatchNorm2d) for m in child.modules()) == (name in frozen)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"out_features \['s9'\]"):
        any_net(out_features=["s9"])
    with pytest.raises(ValueError, match="not shape"):
        any_net()(torch.rand(3, 32, 32))
    with pytest.raises(ValueError, match="w_0=20"):
        RegNet(
            stem_class=SimpleStem, stem_width=8, block_class=ResBottleneckBlock,
            depth=4, w_a=8.0, w_0=20, w_m=2.0, group_width=8,
        )  # fmt: skip
