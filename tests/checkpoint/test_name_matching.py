"""Names of Caffe2, torchvision, and names without their leading part."""

import pytest
import torch
from torch import nn

from detectron2.checkpoint._report import matches_table
from detectron2.checkpoint.c2_model_loading import (
    _longest_common_prefix_str,
    align_and_update_state_dicts,
    convert_basic_c2_names,
    convert_c2_detectron_names,
    name_misfits,
)
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.checkpoint.torchvision_names import (
    convert_torchvision_names,
    has_torchvision_names,
)


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("conv1_w", "stem.conv1.weight"),
        ("res_conv1_bn_s", "stem.conv1.norm.weight"),
        ("res2_0_branch1_bn_b", "res2.0.shortcut.norm.bias"),
        ("res4_22_branch2c_w", "res4.22.conv3.weight"),
        ("res3_1_branch2b_gn_s", "res3.1.conv2.norm.weight"),
        ("res2_0_branch2a_bn_riv", "res2.0.conv1.norm.running_var"),
        ("pred_w", "linear.weight"),
        ("stem.conv1.weight", "stem.conv1.weight"),
    ],
)
def test_caffe2_blob_gets_our_name(blob, name):
    assert convert_basic_c2_names([blob]) == [name]


def test_classifier_puts_background_last_and_the_others_drop_it():
    rows = torch.arange(3.0)[:, None]
    weights = {
        "cls_score_w": rows,
        "bbox_pred_b": torch.arange(12.0),
        "mask_fcn_logits_w": rows,
        "fc6_w": rows,
    }
    new, original = convert_c2_detectron_names(weights)
    assert new["cls_score.weight"].flatten().tolist() == [1, 2, 0]
    assert new["bbox_pred.bias"].tolist() == list(range(4, 12))
    assert new["mask_head.predictor.weight"].flatten().tolist() == [1, 2]
    assert new["box_head.fc1.weight"].flatten().tolist() == [0, 1, 2]
    assert original["box_head.fc1.weight"] == "fc6_w"


def test_mask_for_all_classes_has_no_background_row():
    new, _ = convert_c2_detectron_names({"mask_fcn_logits_b": torch.ones(1)})
    assert new["mask_head.predictor.bias"].tolist() == [1]


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({"layer1": nn.Linear(2, 3)})
        self.layer2 = nn.Linear(3, 2)
        self.res = nn.ModuleDict({"layer2": nn.Linear(3, 2)})


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel])
def test_longest_suffix_wins(wrap):
    model = wrap(Nested())
    weights = {
        f"{name}.{kind}": torch.rand(shape)
        for name, rows, columns in (("layer1", 3, 2), ("layer2", 2, 3), ("res.layer2", 2, 3))
        for kind, shape in (("weight", (rows, columns)), ("bias", (rows,)))
    }
    model.load_state_dict(align_and_update_state_dicts(model.state_dict(), weights))
    inner = getattr(model, "module", model)
    assert torch.equal(inner.layer2.weight, weights["layer2.weight"])
    assert torch.equal(inner.res["layer2"].weight, weights["res.layer2.weight"])
    assert torch.equal(inner.block["layer1"].bias, weights["layer1.bias"])


def test_end_of_a_name_must_begin_after_a_dot():
    aligned = align_and_update_state_dicts(
        {"xconv.weight": torch.zeros(1)}, {"conv.weight": torch.ones(1)}, c2_conversion=False
    )
    assert list(aligned) == ["conv.weight"]


def test_tensor_that_fits_two_names_is_an_error():
    model = {"a.x.w": torch.zeros(1), "b.x.w": torch.zeros(1)}
    with pytest.raises(ValueError, match="'x.w' of the checkpoint fits two.*'a.x.w' and 'b.x.w'"):
        align_and_update_state_dicts(model, {"x.w": torch.ones(1)}, c2_conversion=False)


def test_tensor_of_another_shape_keeps_its_own_name_until_it_is_reported():
    model = {"head.conv.bias": torch.zeros(3)}
    aligned = align_and_update_state_dicts(model, {"conv.bias": torch.ones(4)}, c2_conversion=False)
    assert list(aligned) == ["conv.bias"]
    assert list(name_misfits(aligned, model)) == ["head.conv.bias"]


def test_matches_are_logged_as_a_table(caplog):
    caplog.set_level("INFO", logger="detectron2")
    align_and_update_state_dicts(
        {"b.stem.conv1.weight": torch.zeros(4)}, {"conv1_w": torch.ones(4)}
    )
    assert "b.stem.conv1.weight" in caplog.text and "conv1_w" in caplog.text


def test_many_names_that_only_begin_otherwise_are_one_line_of_the_table():
    names = [f"res{stage}.{block}.weight" for stage in range(2, 6) for block in range(5)]
    rows = [(f"backbone.{name}", name, (4,)) for name in names]
    table = matches_table([*rows, ("stem.conv.weight", "conv1_w", (3, 3)), ("b.fc.x", "fc.x", ())])
    header, _, *lines = table.splitlines()
    assert header.split()[:3] == ["in", "the", "model"]
    assert [line.split() for line in lines] == [
        ["b.fc.x", "fc.x", "scalar"],
        ["backbone.*", "(20", "tensors)", "*"],
        ["stem.conv.weight", "conv1_w", "3x3"],
    ]


def test_longest_common_prefix():
    assert _longest_common_prefix_str(["abc.de", "abc.df"]) == "abc.d"


def test_torchvision_names_become_ours():
    theirs = [
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer1.0.bn3.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.bias",
        "fc.weight",
    ]
    assert has_torchvision_names(theirs)
    assert list(convert_torchvision_names(dict.fromkeys(theirs))) == [
        "stem.conv1.weight",
        "stem.conv1.norm.running_mean",
        "res2.0.conv1.weight",
        "res2.0.conv3.norm.weight",
        "res3.0.shortcut.weight",
        "res3.0.shortcut.norm.bias",
        "fc.weight",
    ]
    assert not has_torchvision_names(["stem.conv1.weight"])


def test_catalog_knows_addresses_and_the_nearest_names():
    assert ModelCatalog.get("ImageNetPretrained/MSRA/R-50").endswith(
        "/detectron/ImageNetPretrained/MSRA/R-50.pkl"
    )
    rpn = ModelCatalog.get("Caffe2Detectron/COCO/35998355/rpn_R-50-C4_1x")
    assert rpn.endswith("valminusminival/rpn/model_final.pkl")
    keypoints = ModelCatalog.get("Caffe2Detectron/COCO/37697547/e2e_keypoint_rcnn_R-50-FPN_1x")
    assert "keypoints_coco_2014_train" in keypoints
    with pytest.raises(RuntimeError, match="no 'ImageNetPretrained/MSRA/R-5'.*MSRA/R-50"):
        ModelCatalog.get("ImageNetPretrained/MSRA/R-5")
