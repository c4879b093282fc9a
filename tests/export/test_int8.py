import dataclasses
import json
import re

import pytest
import torch
from small_models import picture, small_model
from support import FORMATS
from torch import nn

from detectron2.export import ProofError, _executorch, _pt2, export, int8, load
from detectron2.export.batched import BatchedModel
from detectron2.export.calibration import Batches, evenly_chosen
from detectron2.export.info import ExportInfo
from detectron2.export.int8 import agreement, stays_float
from detectron2.export.int8_report import Int8Report
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


def test_more_parts_stay_float_on_request_and_calls_of_a_module_are_counted_in_two_ways():
    assert stays_float("batched/model/roi_heads/mask_head/mask_fcn1", ("mask_head",))
    assert not stays_float("batched/model/roi_heads/box_head/fc1", ("mask_head",))
    assert stays_float("batched/model/head/bbox_pred@2")


def test_calibration_takes_images_from_first_to_last():
    assert evenly_chosen(range(100), 4) == [0, 25, 50, 75]
    assert evenly_chosen(range(3), 4) == [0, 1, 2]


def test_int8_of_another_format_or_of_nothing_is_refused(tmp_path):
    model = small_model("RetinaNet")
    message = "INT8 is for openvino, pt2, executorch, not for torchscript"
    with pytest.raises(ValueError, match=message):
        export(model, "torchscript", tmp_path / "m.ts", int8=[picture()])
    with pytest.raises(ValueError, match="INT8 needs images to calibrate on, and there is none"):
        export(model, "pt2", tmp_path / "m.pt2", int8=[])


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [
        ("openvino", "nncf", "openvino"),
        ("pt2", "torchao.quantization.pt2e.quantize_pt2e", "mobile"),
    ],
)
def test_a_missing_quantizer_is_named_with_its_extra(format, package, extra, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    name = package.partition(".")[0]
    with pytest.raises(ImportError, match=rf'needs the package "{name}": pip .*\[{extra}\]'):
        int8.check_int8(format, [picture()])


# ---- the report


def report(*after):
    metrics = {"bbox": {"AP": (40.0, after[0]), "AP50": (60.0, 1.0)}, "segm": {"AP": (30.0, 29.9)}}
    return Int8Report(4, 9, 0.97, 4_000_000, 1_000_000, 30.0, 10.0, metrics=metrics)


def test_the_report_says_what_each_task_lost():
    found = report(39.5)
    assert found.lost == pytest.approx({"bbox AP": 0.5, "segm AP": 0.1})
    assert found.most_lost == pytest.approx(0.5) and found.speedup == 3.0
    assert "bbox AP: 40.00 -> 39.50 (-0.50)" in found.lines()
    assert "latency: 30 -> 10 ms (3.00 times as fast)" in found.lines()
    content = json.loads(found.to_json())
    assert content["metrics"]["bbox"]["AP"] == [40.0, 39.5] and content["speedup"] == 3.0
    # No object of a size is "not a number", for which JSON has no word.
    assert json.loads(report(float("nan")).to_json())["metrics"]["bbox"]["AP"] == [40.0, None]
    assert "fine-tune with TRAINING.QUANTIZATION" in report(39.0).lines()[-1]
    assert Int8Report(4, 9, 0.97, 4, 1, 30.0, 10.0).lost == {}
    assert report(float("nan")).lost["bbox AP"] == 40.0
    nothing = dataclasses.replace(found, metrics={"bbox": {"AP": (float("nan"), float("nan"))}})
    assert nothing.lost == {} and nothing.most_lost == 0


def test_more_stays_float_until_little_is_lost_and_the_best_attempt_is_kept(tmp_path, monkeypatch):
    """Which file remains, without the minutes that real ones take."""
    losses = {0: 3.0, 1: 0.9, 2: 1.5}
    tried = []

    def attempt(batched, info, path, kept, images, settings, float_parts, evaluation):
        step = int8.FLOAT_PARTS.index(float_parts)
        tried.append(step)
        assert path.read_text() == "float"  # every attempt begins with the float file
        path.write_text(f"attempt {step}")
        return report(40.0 - losses[step])

    monkeypatch.setattr(int8, "_attempt", attempt)
    for expected, attempts in (("attempt 1", [0, 1, 2]), ("attempt 0", [0])):
        tried.clear()
        folder = tmp_path / expected
        (folder / "kept").mkdir(parents=True)
        (folder / "m.pte").write_text("float")
        found = int8.make_int8(None, None, folder / "m.pte", folder / "kept", [], None)
        assert tried == attempts and (folder / "m.pte").read_text() == expected
        assert found.most_lost == pytest.approx(losses[int(expected[-1])])
        losses[0] = 0.2


# ---- programs of torch.export


class Layers(nn.Module):
    """A network with the names of parts that exporters know."""

    def __init__(self):
        super().__init__()
        self.pixel_mean = torch.zeros(3, 1, 1)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.predictor = nn.Conv2d(8, 2, 1)


class LayersBatch(BatchedModel):
    output_names = ("sem_seg",)

    def forward(self, images, image_sizes):
        return (self.model.predictor(self.model.backbone(images / 64 - 2)) * image_sizes[0, 0],)


@pytest.mark.filterwarnings("ignore")  # of what torchao imports, of its own code
@pytest.mark.parametrize("sizes", [{"side_multiple": 32}, {"image_size": [64, 96], "batch": 1}])
def test_layers_of_parts_become_integers_and_last_layers_do_not(sizes, tmp_path):
    pytest.importorskip("torchao", reason="8-bit files of torch.export are made with it")
    torch.manual_seed(0)
    batched = LayersBatch(Layers().eval()).eval()
    info = ExportInfo("pt2", "Layers", ["sem_seg"], **sizes)
    images = [picture(64, 96, seed) for seed in range(3)]
    layers = _pt2.write_int8_pt2(batched, info, tmp_path / "m.pt2", False, images, ())
    assert layers == 1 and info.int8_images == 3
    exported = load(tmp_path / "m.pt2")
    assert exported.info.int8_images == 3
    (inputs,) = Batches(info, images[:1])
    (found,) = exported.runtime(*(each.numpy() for each in inputs))
    with torch.no_grad():
        (expected,) = batched(*inputs)
    error = (torch.from_numpy(found) - expected).abs().mean() / expected.abs().mean()
    assert 0 < error < 0.05
    stored = torch.export.load(tmp_path / "m.pt2").state_dict
    assert {each.dtype for each in stored.values() if each.dim() == 4} == {
        torch.int8,
        torch.float32,
    }
    assert sum(each.numel() for each in stored.values() if each.dim() == 4) == 3 * 8 * 9 + 8 * 2
    kept = ("backbone",)
    assert _pt2.write_int8_pt2(batched, info, tmp_path / "f.pt2", False, images, kept) == 0


class SharedLayers(nn.Module):
    """A pyramid of two levels that go through the same layer, as heads do."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.tower = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        fine = self.first(x).relu()
        coarse = self.tower(nn.functional.max_pool2d(fine, 2)).relu()
        return nn.functional.interpolate(coarse, scale_factor=2.0) + 2 * self.tower(fine).relu()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what ExecuTorch imports
def test_layers_that_run_once_for_each_level_become_integers_in_executorch(tmp_path):
    pytest.importorskip("executorch", reason=".pte files are written by it")
    torch.manual_seed(0)
    model = Layers()
    model.backbone = SharedLayers()
    batched = LayersBatch(model.eval()).eval()
    info = ExportInfo("executorch", "Layers", ["sem_seg"], image_size=[64, 96], batch=1)
    images = [picture(64, 96, seed) for seed in range(3)]
    path = tmp_path / "m.pte"
    assert _executorch.write_int8_executorch(batched, info, path, images, ()) == 3
    (inputs,) = Batches(info, images[:1])
    (found,) = load(path).runtime(*(each.numpy() for each in inputs))
    with torch.no_grad():
        (expected,) = batched(*inputs)
    error = (torch.from_numpy(found) - expected).abs().mean() / expected.abs().mean()
    assert 0 < error < 0.05


# ---- small models


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
    assert {path.name for path in tmp_path.iterdir()} == {"m.xml", "m.bin", "m.int8.json"}
    assert json.loads((tmp_path / "m.int8.json").read_text())["layers"] == report.layers


# Of each kind of detector one: what is exported in float is quantized in the same way.
PT2E = [
    ("RetinaNet", "executorch"),
    ("Mask R-CNN FPN", "executorch"),
    ("FCOS", "executorch"),
    ("Semantic FPN", "executorch"),
    ("RetinaNet", "pt2"),
    ("Mask R-CNN FPN", "pt2"),
    ("FCOS", "pt2"),
    ("Semantic FPN", "pt2"),
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # of what torchao and ExecuTorch import
@pytest.mark.parametrize(("architecture", "format"), PT2E)
def test_integers_in_programs_of_torch_export_find_what_floats_find(architecture, format, tmp_path):
    pytest.importorskip("torchao", reason="8-bit files of torch.export are made with it")
    if format == "executorch":
        pytest.importorskip("executorch", reason=".pte files are written by it")
    exported = export(
        small_model(architecture),
        format,
        tmp_path / f"m{FORMATS[format]}",
        shortest_edge=160,
        longest_edge=256,
        image_size=(192, 256) if format == "executorch" else None,
        compile=architecture == "Semantic FPN",
        int8=[picture(90, 140, seed) for seed in range(4)],
    )
    report = exported.int8_report
    assert report.images == 4 and report.layers > 10
    assert report.agreement >= int8.LEAST_AGREEMENT
    assert load(exported.path).info.int8_images == 4


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
