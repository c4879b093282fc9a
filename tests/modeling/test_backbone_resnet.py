import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from detectron2.modeling.backbone import BasicStem, ResNet, make_stage
from detectron2.modeling.backbone.resnet import (
    BasicBlock,
    BottleneckBlock,
    DeformBottleneckBlock,
    build_resnet_backbone,
)


def tiny(**kwargs):
    """Three stages of one block each; 4, 8 and 16 channels."""
    stages = [
        ResNet.make_stage(BasicBlock, 1, stride_per_block=[1], in_channels=4, out_channels=4),
        ResNet.make_stage(BasicBlock, 1, stride_per_block=[2], in_channels=4, out_channels=8),
        ResNet.make_stage(
            BottleneckBlock, 1, stride=2, in_channels=8, out_channels=16, bottleneck_channels=4
        ),
    ]
    return ResNet(BasicStem(3, 4), stages, **kwargs).eval()


def test_outputs_have_the_announced_shapes():
    names = ["stem", "res2", "res3", "res4"]
    net = tiny(out_features=names)
    outputs = net(torch.rand(2, 3, 64, 96))
    assert list(outputs) == names
    for name, shape in net.output_shape().items():
        size = (2, shape.channels, 64 // shape.stride, 96 // shape.stride)
        assert outputs[name].shape == size
    assert {n: s.stride for n, s in net.output_shape().items()} == {
        "stem": 4, "res2": 4, "res3": 8, "res4": 16,
    }  # fmt: skip


def test_the_last_stage_is_the_default_output():
    assert list(tiny().output_shape()) == ["res4"]


def test_stages_behind_the_last_output_are_not_built():
    net = tiny(out_features=["res2", "res3"])
    assert not hasattr(net, "res4")
    assert len(net.stages) == 2


def test_classifier_is_an_output_of_its_own():
    outputs = tiny(num_classes=5)(torch.rand(2, 3, 32, 32))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {"linear": (2, 5)}
    assert tiny(num_classes=5).linear.in_features == 16


def test_quirk_the_classifier_sits_on_the_last_stage_asked_for():
    net = tiny(num_classes=5, out_features=["res3", "linear"])
    assert net.linear.in_features == 8
    assert net(torch.rand(1, 3, 32, 32))["linear"].shape == (1, 5)


@pytest.mark.parametrize("names", [["res7"], ["linear"], []])
def test_an_output_that_does_not_exist_is_refused(names):
    with pytest.raises(ValueError, match="must be some of"):
        tiny(out_features=names)


def test_input_without_batch_is_refused():
    with pytest.raises(ValueError, match=r"\(N, C, H, W\), not shape \(3, 32, 32\)"):
        tiny()(torch.rand(3, 32, 32))


@pytest.mark.parametrize("freeze_at, frozen", [(0, ""), (1, "stem"), (2, "stem res2"), (9, "all")])
def test_freezing_stops_gradients_and_statistics(freeze_at, frozen):
    net = tiny(freeze_at=freeze_at, out_features=["res4"])
    for name, child in net.named_children():
        is_frozen = frozen == "all" or name in frozen.split()
        assert all(p.requires_grad != is_frozen for p in child.parameters())
        kinds = {isinstance(m, FrozenBatchNorm2d) for m in child.modules() if hasattr(m, "eps")}
        assert kinds == {is_frozen}


def test_a_plain_block_with_identical_norms_is_the_formula():
    block = BottleneckBlock(4, 4, bottleneck_channels=2, norm="").eval()
    x = torch.randn(1, 4, 5, 5)
    out = block.conv3(block.conv2(block.conv1(x).relu()).relu())
    assert_close(block(x), (out + x).relu())
    assert block.shortcut is None


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_the_stride_sits_in_one_convolution(stride_in_1x1):
    block = BottleneckBlock(
        4, 8, bottleneck_channels=4, stride=2, stride_in_1x1=stride_in_1x1, dilation=2
    )
    strides = [conv.stride[0] for conv in (block.conv1, block.conv2)]
    assert strides == ([2, 1] if stride_in_1x1 else [1, 2])
    assert block(torch.rand(1, 4, 8, 8)).shape == (1, 8, 4, 4)


@pytest.mark.parametrize("modulated, channels", [(False, 36), (True, 54)])
def test_an_untrained_deformable_block_samples_the_plain_grid(modulated, channels):
    torch.manual_seed(0)
    arguments = {"bottleneck_channels": 4, "stride": 2, "norm": "", "num_groups": 2}
    deform = DeformBottleneckBlock(
        8, 8, deform_modulated=modulated, deform_num_groups=2, **arguments
    )
    assert deform.conv2_offset.out_channels == channels
    plain = BottleneckBlock(8, 8, **arguments)
    with torch.no_grad():
        for name in ("shortcut", "conv1", "conv2", "conv3"):
            weight = getattr(deform, name).weight.clone()
            if name == "conv2" and modulated:
                weight /= 2  # every sample counts sigmoid(0)
            getattr(plain, name).weight.copy_(weight)
    x = torch.randn(2, 8, 9, 9)
    assert_close(deform(x), plain(x), rtol=1e-4, atol=1e-5)


def test_modulated_offsets_come_before_the_weights():
    block = DeformBottleneckBlock(4, 4, bottleneck_channels=2, norm="", deform_modulated=True)
    seen = {}

    def record(x, offset, mask):
        seen.update(offset=offset, mask=mask)
        return x

    block.conv2.forward = record
    nn.init.zeros_(block.conv2_offset.weight)
    with torch.no_grad():
        block.conv2_offset.bias.copy_(torch.arange(27.0))
    block(torch.rand(1, 4, 3, 3))
    assert seen["offset"][0, :, 0, 0].tolist() == list(range(18))
    assert_close(seen["mask"][0, :, 0, 0], torch.arange(18.0, 27.0).sigmoid())


def test_make_stage_gives_arguments_to_all_or_to_each_block():
    blocks = make_stage(
        BasicBlock, 3, stride_per_block=[2, 1, 1], in_channels=4, out_channels=8, norm=""
    )
    assert [block.stride for block in blocks] == [2, 1, 1]
    assert [block.in_channels for block in blocks] == [4, 8, 8]
    assert blocks[2].conv1.norm is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"stride_per_block": [1]}, "not for 2 blocks"),
        ({"stride_per_block": [1, 1], "stride": 1}, "keep one"),
    ],
)
def test_make_stage_refuses_contradictions(arguments, words):
    with pytest.raises(ValueError, match=words):
        ResNet.make_stage(BasicBlock, 2, in_channels=4, out_channels=4, **arguments)


@pytest.mark.parametrize("depth, blocks, channels", [(18, 8, 512), (50, 16, 2048), (152, 50, 2048)])
def test_default_stages_are_those_of_the_paper(depth, blocks, channels):
    with torch.device("meta"):
        stages = ResNet.make_default_stages(depth)
    assert sum(map(len, stages)) == blocks
    assert stages[-1][-1].out_channels == channels
    assert [stage[0].stride for stage in stages] == [1, 2, 2, 2]


def test_parameter_count_of_the_classifier_of_the_paper():
    with torch.device("meta"):
        net = ResNet(BasicStem(), ResNet.make_default_stages(50), num_classes=1000)
    assert sum(p.numel() for p in net.parameters()) == 25_557_032


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match="no ResNet of depth 42"):
        ResNet.make_default_stages(42)


def built(**options):
    cfg = get_cfg()
    for key, value in options.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    with torch.device("meta"):
        return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def test_config_default_is_the_c4_trunk_of_resnet_50():
    net = built()
    assert net.stage_names == ("res2", "res3", "res4")
    assert net.output_shape() == {"res4": ShapeSpec(channels=1024, stride=16)}
    assert net.res3[0].conv1.stride == (2, 2)
    assert not any(p.requires_grad for p in net.res2.parameters())
    assert all(p.requires_grad for p in net.res3.parameters())


def test_config_of_a_dilated_last_stage():
    net = built(RESNETS__OUT_FEATURES=["res5"], RESNETS__RES5_DILATION=2)
    assert net.output_shape() == {"res5": ShapeSpec(channels=2048, stride=16)}
    assert net.res5[1].conv2.dilation == (2, 2)


def test_config_of_groups_and_deformable_stages():
    net = built(
        RESNETS__NUM_GROUPS=32,
        RESNETS__WIDTH_PER_GROUP=8,
        RESNETS__DEFORM_ON_PER_STAGE=[False, True, False, False],
        RESNETS__DEFORM_NUM_GROUPS=2,
    )
    assert isinstance(net.res3[0], DeformBottleneckBlock)
    assert net.res3[0].conv2_offset.out_channels == 36
    assert isinstance(net.res4[0], BottleneckBlock)
    assert net.res4[0].conv2.weight.shape == (1024, 32, 3, 3)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"RESNETS__DEPTH": 18}, "RES2_OUT_CHANNELS is 256"),
        (
            {"RESNETS__DEPTH": 34, "RESNETS__RES2_OUT_CHANNELS": 64, "RESNETS__NUM_GROUPS": 2},
            "NUM_GROUPS is 2",
        ),
        ({"RESNETS__OUT_FEATURES": ["res5"], "RESNETS__RES5_DILATION": 4}, "RES5_DILATION is 4"),
        ({"RESNETS__DEPTH": 7}, "no ResNet of depth 7"),
    ],
)
def test_config_contradictions_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        built(**options)


def test_backbones_are_looked_up_by_name(monkeypatch):
    cfg = get_cfg()
    with torch.device("meta"):
        assert isinstance(build_backbone(cfg), ResNet)
    cfg.MODEL.BACKBONE.NAME = "no_backbone"
    monkeypatch.setitem(
        BACKBONE_REGISTRY._obj_map, "no_backbone", lambda cfg, shape: nn.Conv2d(1, 1, 1)
    )
    with pytest.raises(TypeError, match="'no_backbone' built a Conv2d"):
        build_backbone(cfg)


def test_a_backbone_of_another_project_needs_three_attributes_or_output_shape():
    class Mine(Backbone):
        def __init__(self):
            super().__init__()
            self._out_features = ["a"]
            self._out_feature_channels = {"a": 2}
            self._out_feature_strides = {"a": 8}

        def forward(self, x):
            return {"a": x}

    assert Mine().output_shape() == {"a": ShapeSpec(channels=2, stride=8)}
    assert (Mine().size_divisibility, Mine().padding_constraints) == (0, {})
    with pytest.raises(TypeError, match="abstract"):
        Backbone()
