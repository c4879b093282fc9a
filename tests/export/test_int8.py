import re

import pytest
import torch
from small_models import picture, small_model

from detectron2.export import ProofError, export, int8, load
from detectron2.export.int8 import agreement, stays_float
from detectron2.structures import Boxes, Instances


def found(boxes, classes):
    boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    return {"instances": Instances((50, 50), pred_boxes=boxes, pred_classes=torch.tensor(classes))}


def test_agreement_is_the_share_of_detections_with_a_partner():
    first = found([[0, 0, 10, 10], [20, 20, 40, 40]], [1, 0])
    assert agreement(first, first) == 1.0
    assert agreement(first, found([[1, 0, 10, 10]], [1])) == pytest.approx(2 / 3)
    assert agreement(first, found([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 1])) == 0.0
    # No detection is the partner of two others.
    assert agreement(found([[0, 0, 10, 10]] * 2, [1, 1]), found([[0, 0, 10, 10]], [1])) == (
        pytest.approx(2 / 3)
    )
    assert agreement(found([], []), found([], [])) == 1.0
    scores = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert agreement({"sem_seg": scores}, {"sem_seg": scores.flip(0)}) == 0.0


def test_arithmetic_on_boxes_and_last_layers_stay_float():
    for name in (
        "/batched/Mul_3",
        "/batched/anchor_generator/Add",
        "/batched/box_predictor/cls_score/Gemm/WithoutBiases",
        "/batched/rpn_head/anchor_deltas/Conv/WithoutBiases",
        "/batched/mask_head/predictor/Conv",
        "/batched/rpn_head/objectness_logits_1/Conv",
        "/batched/head/bbox_pred_4/Conv",
    ):
        assert stays_float(name), name
    for name in (
        "/batched/backbone/bottom_up/res2/res2.0/conv1/Conv/WithoutBiases",
        "/batched/backbone/fpn_lateral2/Conv/WithoutBiases",
        "/batched/rpn_head/conv_3/Conv/WithoutBiases",
        "/batched/box_head/fc1/Gemm/WithoutBiases",
    ):
        assert not stays_float(name), name


def test_int8_of_another_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="INT8 is for the format openvino, not for torchscript"):
        export(small_model("RetinaNet"), "torchscript", tmp_path / "m.ts", int8=[picture()])


def test_a_missing_nncf_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(ImportError, match=r'needs the package "nncf": pip install "detectron2\['):
        int8.check_int8("openvino")


def need_nncf():
    for package in ("nncf", "openvino", "onnx", "onnxscript"):
        pytest.importorskip(package, reason="8-bit OpenVINO files are made with it")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # NNCF and what it imports warn of their own code
@pytest.mark.parametrize("architecture", ["RetinaNet", "Mask R-CNN FPN", "Semantic FPN", "FCOS"])
def test_integers_find_what_floats_find(architecture, tmp_path):
    need_nncf()
    shortest = 160 if architecture == "FCOS" else 96
    exported = export(
        small_model(architecture),
        "openvino",
        tmp_path / "m.xml",
        shortest_edge=shortest,
        longest_edge=256,
        int8=[picture(90, 140, seed) for seed in range(4)],
    )
    report = exported.int8_report
    assert report.images == 4 and report.layers > 20
    assert report.agreement >= int8.LEAST_AGREEMENT
    assert load(exported.path).info.int8_images == 4
    assert re.search(r"int8: \d+ layers, calibrated on 4 images", "\n".join(exported.proof))
    assert {path.name for path in tmp_path.iterdir()} == {"m.xml", "m.bin"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # NNCF and what it imports warn of their own code
def test_integers_that_find_something_else_are_not_kept(tmp_path, monkeypatch):
    need_nncf()
    monkeypatch.setattr(int8, "LEAST_AGREEMENT", 1.1)
    with pytest.raises(ProofError, match=r"% of the detections agree, less than 110%"):
        export(
            small_model("Semantic FPN"),
            "openvino",
            tmp_path / "m.xml",
            shortest_edge=96,
            longest_edge=256,
            int8=[picture()],
        )
    assert list(tmp_path.iterdir()) == []
