import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import (
    LastLevelMaxPool,
    LastLevelP6P7,
    _assert_strides_are_log2_contiguous,
    build_resnet_fpn_backbone,
    build_retinanet_resnet_fpn_backbone,
)


class Maps(Backbone):
    """Random maps of strides 8, 16 and 32."""

    def __init__(self, strides=(8, 16, 32)):
        super().__init__()
        self._out_features = [f"c{index}" for index in range(len(strides))]
        self._out_feature_strides = dict(zip(self._out_features, strides))
        self._out_feature_channels = {name: 2 + i for i, name in enumerate(self._out_features)}

    def forward(self, x):
        return {
            name: torch.randn(
                len(x), shape.channels, x.shape[2] // shape.stride, x.shape[3] // shape.stride
            )
            for name, shape in self.output_shape().items()
        }


NAMES = ["c0", "c1", "c2"]


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_each_map_is_its_own_lateral_plus_the_coarser_one(fuse_type):
    fpn = FPN(Maps(), NAMES, 4, fuse_type=fuse_type)
    maps = fpn.bottom_up(torch.zeros(2, 3, 64, 96))
    fpn.bottom_up.forward = lambda x: maps
    outputs = fpn(torch.zeros(2, 3, 64, 96))

    coarse = fpn.fpn_lateral5(maps["c2"])
    middle = fpn.fpn_lateral4(maps["c1"]) + F.interpolate(coarse, scale_factor=2, mode="nearest")
    middle = middle / 2 if fuse_type == "avg" else middle
    fine = fpn.fpn_lateral3(maps["c0"]) + F.interpolate(middle, scale_factor=2, mode="nearest")
    fine = fine / 2 if fuse_type == "avg" else fine
    assert list(outputs) == ["p3", "p4", "p5"]
    assert_close(outputs["p5"], fpn.fpn_output5(coarse))
    assert_close(outputs["p4"], fpn.fpn_output4(middle))
    assert_close(outputs["p3"], fpn.fpn_output3(fine))


@pytest.mark.parametrize(
    "top_block, strides",
    [(None, [8, 16, 32]), (LastLevelMaxPool(), [8, 16, 32, 64])],
)
def test_outputs_have_the_announced_shapes(top_block, strides):
    fpn = FPN(Maps(), NAMES, 4, top_block=top_block)
    outputs = fpn(torch.zeros(1, 3, 128, 192))
    shapes = fpn.output_shape()
    assert [shape.stride for shape in shapes.values()] == strides
    for name, shape in shapes.items():
        assert outputs[name].shape == (1, 4, 128 // shape.stride, 192 // shape.stride)
    assert fpn.size_divisibility == 32


def test_max_pool_level_takes_every_other_cell():
    x = torch.arange(35.0).view(1, 1, 5, 7)
    (p6,) = LastLevelMaxPool()(x)
    assert_close(p6, x[:, :, ::2, ::2])


@pytest.mark.parametrize("source, channels", [("c2", 4), ("p5", 6)])
def test_p6_and_p7_come_from_the_bottom_up_map_or_from_p5(source, channels):
    top_block = LastLevelP6P7(channels, 6, in_feature=source)
    fpn = FPN(Maps(), NAMES, 6, top_block=top_block)
    maps = fpn.bottom_up(torch.zeros(1, 3, 128, 128))
    fpn.bottom_up.forward = lambda x: maps
    outputs = fpn(torch.zeros(1, 3, 128, 128))
    p6 = top_block.p6({**maps, **outputs}[source])
    assert_close(outputs["p6"], p6)
    assert_close(outputs["p7"], top_block.p7(p6.relu()))
    assert fpn.output_shape()["p7"].stride == 128


def test_convolutions_have_a_bias_only_without_a_norm():
    assert FPN(Maps(), NAMES, 4).fpn_lateral3.bias is not None
    normed = FPN(Maps(), NAMES, 32, norm="GN")
    assert normed.fpn_lateral3.bias is None
    assert isinstance(normed.fpn_output3.norm, nn.GroupNorm)


def test_convention_laterals_come_first_in_the_state_dict():
    names = list(FPN(Maps(), NAMES, 4).state_dict())
    assert names[:4] == [
        "fpn_lateral3.weight", "fpn_lateral3.bias", "fpn_output3.weight", "fpn_output3.bias",
    ]  # fmt: skip


def test_square_padding_is_passed_on():
    assert FPN(Maps(), NAMES, 4, square_pad=256).padding_constraints == {"square_size": 256}


def test_strides_must_double():
    with pytest.raises(AssertionError, match="32 is not twice 8"):
        FPN(Maps(strides=(8, 32)), ["c0", "c1"], 4)
    _assert_strides_are_log2_contiguous([4, 8, 16])


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"in_features": []}, "in_features is empty"),
        ({"in_features": NAMES, "fuse_type": "max"}, "fuse_type is 'max'"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        FPN(Maps(), out_channels=4, **arguments)


def fpn_config():
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    return cfg


@pytest.mark.parametrize(
    "build, outputs",
    [
        (build_resnet_fpn_backbone, ["p3", "p4", "p5", "p6"]),
        (build_retinanet_resnet_fpn_backbone, ["p3", "p4", "p5", "p6", "p7"]),
    ],
)
def test_pyramids_are_built_from_a_config(build, outputs):
    with torch.device("meta"):
        fpn = build(fpn_config(), ShapeSpec(channels=3))
    assert list(fpn.output_shape()) == outputs
    assert {shape.channels for shape in fpn.output_shape().values()} == {32}
