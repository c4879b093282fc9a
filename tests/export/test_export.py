import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import ARCHITECTURES, picture, small_config, small_model, vary
from support import FORMATS, supported, table

from detectron2 import model_zoo
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.engine.predict_command import PredictOptions, run_predict
from detectron2.export import ProofError, UnsupportedModelError, export, load
from detectron2.export import proof as proof_module
from detectron2.export.batched import batched_model
from detectron2.export.compare import TOLERANCE, first_difference
from detectron2.export.exporter import _describe, _from_config
from detectron2.export.info import ExportInfo
from detectron2.export.inputs import batch_of_images
from detectron2.export.loading import ExportedModel
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
NEEDS = {"torchscript": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
NEEDS["openvino"] = ("openvino", *NEEDS["onnx"][:2])
NEEDS["pt2"], NEEDS["executorch"] = (), ("executorch",)


def need(format):
    for package in NEEDS[format]:
        pytest.importorskip(package, reason=f"exporting to {format} needs it")


def export_small(architecture, format, folder, **options):
    # Pictures for the proof are as small as those that a model is made for; GroupNorm of one
    # channel in a group (the small FCOS) cannot take maps of a single cell.
    # Neither can compiled graphs of dense detectors.
    shortest = 160 if architecture == "FCOS" or format == "pt2" else 96
    options = {"shortest_edge": shortest, "longest_edge": 256, **options}
    if format == "executorch":
        options = {"image_size": (192, 256), **options}
    return export(small_model(architecture), format, folder / f"m{FORMATS[format]}", **options)


def detections(line):
    """Numbers of detections in a line of a proof."""
    return [int(count) for count in re.findall(r"\d+", line.rpartition(":")[2])]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One TorchScript file for the tests that only read it."""
    # Metadata has colours as tuples, which a description in JSON has as lists.
    classes = {
        "thing_classes": [f"class {k}" for k in range(5)],
        "thing_colors": [(k, 0, 9) for k in range(5)],
    }
    folder = tmp_path_factory.mktemp("exported")
    return export_small("RetinaNet", "torchscript", folder, classes=classes)


# Their parts are those of other architectures.
COMBINED = {"Faster R-CNN C4", "Faster R-CNN DC5", "Mask R-CNN DC5"}


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=[pytest.mark.slow] * (a in COMBINED)) for a in ARCHITECTURES],
)
@torch.no_grad()
def test_the_batched_form_computes_what_the_model_computes(architecture):
    model = small_model(architecture)
    batched = batched_model(model)
    # GroupNorm refuses single cells, so no side is smaller than the largest stride.
    case = proof_module._Case("", [proof_module._picture(s, 3, 0) for s in ((96, 200), (130, 140))])
    info = _describe(batched, "torchscript")
    expected = proof_module._eager(model, case.images, info)
    assert proof_module._divergence(batched, info, case, expected).endswith("runtime diverged.")
    if not supported(architecture, "executorch").startswith("no:"):
        padded = batched_model(model, padded=True)
        info = _describe(padded, "executorch")
        assert proof_module._divergence(padded, info, case, expected).endswith("diverged.")


CELLS = [(a, f) for a in ARCHITECTURES for f in FORMATS if supported(a, f).startswith("yes")]
# TorchScript is exported by the fixture above.
QUICK = [("Mask R-CNN C4", "onnx"), ("Semantic FPN", "openvino")]


@pytest.mark.timeout(1800)  # AOTInductor and ExecuTorch compile for minutes
@pytest.mark.parametrize(
    ("architecture", "format"),
    [pytest.param(*c, marks=[] if c in QUICK else [pytest.mark.slow]) for c in CELLS],
)
def test_every_supported_cell_of_the_table_is_exported_and_proved(architecture, format, tmp_path):
    need(format)
    compile = supported(architecture, format) == "yes"
    exported = export_small(architecture, format, tmp_path, compile=compile)
    assert len(exported.proof) == 3 and exported.info.architecture
    files = {".bin", ".xml"} if format == "openvino" else {FORMATS[format]}
    assert {path.suffix for path in tmp_path.iterdir()} == files
    model, images = small_model(architecture), [picture(90, 140, 5), picture(110, 100, 6)]
    results = [exported(image) for image in images] if format == "executorch" else None
    # Beside an image of the file's size the model pads others as the file does.
    fixed = exported.info.image_size
    beside = [] if fixed is None else [{"image": torch.zeros(3, *fixed)}]
    for result, image in zip(results or exported.predict(images), images):
        prepared = exported.prepare(image)
        with torch.no_grad():
            expected = model([prepared, *beside])[0]
        alone = exported([prepared])[0]
        assert not first_difference(exported.info, expected, alone, TOLERANCE)
        assert sorted(result) == sorted(expected)


def test_what_the_table_denies_says_so(tmp_path):
    need("onnx")
    with pytest.raises(UnsupportedModelError, match="roi_heads use rotated NMS"):
        export_small("Rotated Faster R-CNN", "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_docs_show_the_table_that_is_tested():
    assert table() in DOCS.read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_image_without_detections_gives_none(tmp_path):
    model = small_model("Mask R-CNN FPN")
    model.roi_heads.box_predictor.test_score_thresh = 0.9999
    need("onnx")
    exported = export(model, "onnx", tmp_path / "m.onnx", shortest_edge=96, longest_edge=160)
    assert [detections(line) for line in exported.proof] == [[0, 0], [0], [0]]
    (found,) = exported.predict([picture()])
    assert len(found["instances"]) == 0 and found["instances"].pred_masks.shape == (0, 72, 96)


def test_the_description_travels_in_the_file(exported):
    again = load(exported.path)
    assert again.info == exported.info
    assert again.info.shortest_edge == 96 and again.info.num_classes == 5
    assert again.info.classes["thing_colors"][1] == [1, 0, 9]
    assert again.info.score_threshold == 0.05 and again.info.tolerance == TOLERANCE
    assert len(again.info.weights_sha256) == 64


def test_a_config_brings_its_classes_and_its_resizing():
    cfg = small_config("RetinaNet")
    MetadataCatalog.get("export_test").set(thing_classes=["a", "b"])
    cfg.DATASETS.TEST = ("export_test",)
    model, described, _ranges = _from_config(cfg)
    info = _describe(batched_model(model), "onnx")
    assert type(model) is not RetinaNet and info.architecture == "RetinaNet"
    assert described.pop("classes") == {"thing_classes": ["a", "b"]}
    assert described == {"shortest_edge": 96, "longest_edge": 160, "input_format": "BGR"}
    vars(info).update(described)
    prepared = ExportedModel(Path("m.ts"), info, None).prepare(picture(120, 200))
    expected = DefaultPredictor(cfg).prepare(picture(120, 200))
    assert torch.equal(prepared.pop("image"), expected.pop("image"))
    assert prepared == expected


def test_torchscript_files_need_nothing_but_pytorch(exported):
    code = f"""
import sys, torch, warnings
warnings.simplefilter("ignore")
module = torch.jit.load({str(exported.path)!r})
boxes, classes, scores, image = module(torch.rand(3, 3, 64, 96) * 255, torch.tensor([[64, 96]] * 3))
assert boxes.shape[1] == 4 and len(boxes) == len(image), boxes.shape
assert not [name for name in sys.modules if name.startswith(("detectron2", "torchvision"))]
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_own_images_and_a_fixed_size_are_compared_too(format, tmp_path):
    need(format)
    options = {"images": [picture(80, 120)], "batch": 2, "image_size": (128, 192)}
    exported = export_small("RetinaNet", format, tmp_path, **options)
    assert exported.proof[0].startswith("your image 0 (96 x 144, 96 x 144)")
    assert len(exported.predict([picture(), picture()])) == 2


def test_wrong_batches_are_refused():
    info = ExportInfo("onnx", "Model", [], batch=2, image_size=[128, 192])
    batch, sizes = batch_of_images(info, [torch.ones(3, 9, 8), torch.ones(3, 7, 5)])
    assert batch.shape == (2, 3, 128, 192) and sizes.tolist() == [[9, 8], [7, 5]]
    with pytest.raises(ValueError, match="takes batches of 2 images, not 1"):
        batch_of_images(info, [torch.zeros(3, 8, 8)])
    small = ExportInfo("pt2", "Model", [], side_multiple=32, side_above=128)
    batch, _ = batch_of_images(small, [torch.ones(3, 33, 130), torch.ones(3, 60, 9)])
    assert batch.shape == (2, 3, 64, 160)
    with pytest.raises(ValueError, match="a side of more than 128 pixels, these fit into 64 x 32"):
        batch_of_images(small, [torch.ones(3, 33, 30)])
    with pytest.raises(ValueError, match="at most 128 x 192 pixels"):
        batch_of_images(info, [torch.zeros(3, 200, 64)] * 2)


def test_a_file_for_batches_of_one_number_takes_any_number_of_images():
    batches = []

    def runtime(images, sizes):
        batches.append(sizes.tolist())
        return [images]  # pixels are what it says of them

    info = ExportInfo("onnx", "Model", ["sem_seg"], batch=2, image_size=[64, 64])
    inputs = [{"image": torch.rand(3, side, 20)} for side in (10, 20, 30)]
    found = ExportedModel(Path("m.onnx"), info, runtime)(inputs)
    assert batches == [[[10, 20], [20, 20]], [[30, 20], [30, 20]]]
    assert all(torch.equal(f["sem_seg"], each["image"]) for f, each in zip(found, inputs))


# ---- the proof fails when it should


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    from detectron2.export import exporter
    from detectron2.export._pt2 import COMPILED

    def write_other_weights(name, batched, info, *rest):
        info.contents = COMPILED
        bias = batched.model.head.bbox_pred.bias
        bias.data.add_(0.5)
        formats_write(name, batched, info, *rest)
        bias.data.sub_(0.5)

    formats_write = exporter.write
    monkeypatch.setattr(exporter, "write", write_other_weights)
    (tmp_path / "m.ts").write_text("the file of before")
    with pytest.raises(ProofError, match="pred_boxes differ: the file misses a detection") as error:
        export_small("RetinaNet", "torchscript", tmp_path)
    assert "BatchedRetinaNet agrees with the model: the graph or its runtime" in str(error.value)
    assert "--no-compile" in str(error.value)  # as of everything that a compiler was part of
    assert (tmp_path / "m.ts").read_text() == "the file of before"
    assert len(list(tmp_path.iterdir())) == 1


def instances(**fields):
    found = Instances((20, 30), pred_boxes=Boxes(torch.tensor([[1.0, 2, 11, 12], [5, 5, 25, 15]])))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.4]), torch.tensor([1, 0])
    for name, value in fields.items():
        found.set(name, value)
    return {"instances": found}


def test_differences_are_named():
    info = ExportInfo("onnx", "Model", [], score_threshold=0.3)

    def compare(expected, found):
        return first_difference(info, expected, found, TOLERANCE)

    masks, keypoints = torch.zeros(2, 20, 30, dtype=torch.bool), torch.ones(2, 3, 3)
    masks[:, 4:9, 3:9] = True
    same = {"pred_masks": masks, "pred_keypoints": keypoints}
    assert compare(instances(**same), instances(**same)) == ""
    swapped = {"instances": instances(**same)["instances"][[1, 0]]}
    assert compare(instances(**same), swapped) == ""
    moved = instances()
    moved["instances"].pred_boxes.tensor[1, 2] += 0.2
    assert "misses a detection of class 0 at (5.0, 5.0, 25.0, 15.0)" in compare(instances(), moved)
    other_class = instances(pred_classes=torch.tensor([1, 2]))
    assert "of class 0" in compare(instances(), other_class)
    assert "score 0.9000" in compare(instances(), instances(scores=torch.tensor([0.902, 0.4])))
    fewer = {"instances": instances()["instances"][:1]}
    assert "adds a detection" in compare(fewer, instances())
    at_the_limit = instances(scores=torch.tensor([0.9, 0.3001]))
    assert compare(fewer, at_the_limit) == ""
    wrong = masks.clone()
    wrong[1, 0, :3] = True
    other = instances(**{**same, "pred_masks": wrong})
    assert compare(instances(**same), other) == "pred_masks differ: mask 1 in 3 of 30 pixels."
    far = keypoints.clone()
    far[0, 2] = torch.tensor([5.0, 1.0, 0.5])
    other = instances(**{**same, "pred_keypoints": far})
    assert "keypoint 2 of detection 0 by 4.0 pixels" in compare(instances(**same), other)
    seg, shifted = torch.rand(3, 4, 5), torch.rand(3, 4, 5)
    assert "sem_seg differs by" in compare({"sem_seg": seg}, {"sem_seg": shifted})


# ---- bad input


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    model = small_model("RetinaNet")
    for arguments, message in (
        ({"format": "caffe2", "output": "m.pb"}, "no format 'caffe2'; choose from torchscript"),
        ({"format": "torchscript", "output": "m.onnx"}, "has to end in .ts or .torchscript"),
        ({"format": "torchscript", "output": "m.ts", "batch": 0}, "batch is 0"),
        ({"format": "torchscript", "output": "m.ts", "opset": 11}, "opset is 11; use 17 to 20"),
        ({"format": "executorch", "output": "m.pte"}, "images of one size: give image_size"),
    ):
        arguments = {**arguments, "output": tmp_path / arguments["output"]}
        with pytest.raises(ValueError, match=message):
            export(model, **arguments)
    with pytest.raises(RuntimeError, match="evaluation mode"):
        export(model.train(), "torchscript", tmp_path / "m.ts")
    assert list(tmp_path.iterdir()) == []


class HeadsOfSomebody(StandardROIHeads):
    def _forward_box(self, features, proposals):
        return super()._forward_box(features, proposals)


def test_modules_that_no_exporter_knows_are_named(tmp_path):
    model = small_model("Mask R-CNN FPN")
    model.roi_heads.__class__ = HeadsOfSomebody
    message = r"its roi_heads, .*HeadsOfSomebody, overrides _forward_box of StandardROIHeads"
    with pytest.raises(UnsupportedModelError, match=message):
        export(model, "torchscript", tmp_path / "m.ts")
    with pytest.raises(UnsupportedModelError, match="Linear is none of FCOS, GeneralizedRCNN"):
        export(torch.nn.Linear(2, 2).eval(), "torchscript", tmp_path / "m.ts")
    model = small_model("Faster R-CNN FPN")
    model.proposal_generator = None
    with pytest.raises(UnsupportedModelError, match="its proposal_generator, None, is none of RPN"):
        export(model, "torchscript", tmp_path / "m.ts")


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r'pip install "detectron2\[openvino\]"'):
        export(small_model("RetinaNet"), "openvino", tmp_path / "m.xml")
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(ImportError, match=r"package 'executorch': pip install .detectron2\[mobile"):
        export(small_model("RetinaNet"), "executorch", tmp_path / "m.pte", image_size=(96, 96))


def rewritten(path, target, change):
    """Copy of a TorchScript file whose description is changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("detectron2.json"):
                content = change(json.loads(content))
            new.writestr(entry, content)
    return target


def test_files_that_cannot_be_used_are_refused(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.onnx' does not exist"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match=r"suffix '.pth'; exported files end in .ts"):
        load(tmp_path / "model.pth")
    whole = exported.path.read_bytes()
    (tmp_path / "half.ts").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half.ts' is no complete torchscript file"):
        load(tmp_path / "half.ts")
    (tmp_path / "half.pt2").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half.pt2' is no complete pt2 file \(File is not a zip"):
        load(tmp_path / "half.pt2")
    newer = rewritten(
        exported.path,
        tmp_path / "newer.ts",
        lambda info: json.dumps({**info, "version": 99, "detectron2": "9.0"}),
    )
    with pytest.raises(ValueError, match=r"of version 99 \(detectron2 9.0\)"):
        load(newer)
    foreign = rewritten(exported.path, tmp_path / "foreign.ts", lambda info: b"")
    with pytest.raises(ValueError, match="has no description of the model"):
        load(foreign)


def test_devices_that_a_runtime_lacks_are_refused(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"cannot run on 'cuda:0': its runtime has cpu here"):
        load(exported.path, device="cuda:0")
    need("onnx")
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"m.onnx' cannot run on 'cuda'"):
        load(tmp_path / "m.onnx", device="cuda")


def test_an_openvino_file_says_what_is_wrong_with_it(tmp_path):
    need("openvino")
    (tmp_path / "half.xml").write_text('<net name="m" version="11"><layers>')
    with pytest.raises(
        ValueError, match=r"half.xml' is no complete openvino file \(Start-end tags"
    ):
        load(tmp_path / "half.xml")


def test_wrong_images_are_refused(exported):
    with pytest.raises(ValueError, match=r"shape \(height, width, 3\), not \(4, 5\)"):
        exported.predict([np.zeros((4, 5))])
    with pytest.raises(ValueError, match="no image to predict on"):
        exported.predict([])


# ---- the command


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "detectron2.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


def dataset(folder):
    """Two photographs and a COCO file about them: arguments of --data."""
    (folder / "photos").mkdir()
    records = []
    for index in range(2):
        Image.fromarray(picture(60, 80, index)).save(folder / "photos" / f"{index}.png")
        records.append({"id": index + 1, "file_name": f"{index}.png", "height": 60, "width": 80})
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 20], "area": 600}
    content = {
        "images": records,
        "annotations": [{**box, "iscrowd": 0}],
        "categories": [{"id": k + 1, "name": f"thing {k}"} for k in range(5)],
    }
    (folder / "val.json").write_text(json.dumps(content))
    return folder / "val.json", folder / "photos"


def test_predict_takes_an_exported_file(exported, tmp_path):
    _, photos = dataset(tmp_path)
    options = {"inputs": [str(photos)], "config": str(exported.path), "output": tmp_path / "out"}
    summary = run_predict(PredictOptions(**options, min_score=0.0))
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert summary.images == len(content["images"]) == 2 and len(content["annotations"]) > 0
    assert [each["name"] for each in content["categories"]] == [f"class {k}" for k in range(5)]
    with pytest.raises(ValueError, match="has its weights and settings inside"):
        run_predict(PredictOptions(**options, random_weights=True))


@pytest.mark.slow
def test_eval_takes_an_exported_file(exported, tmp_path):
    annotations, photos = dataset(tmp_path)
    done = command("eval", exported.path, "--val-data", annotations, photos, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Average Precision" in done.stdout and "copypaste: AP,AP50" in done.stdout
    assert (tmp_path / "coco_instances_results.json").is_file()
    done = command("eval", exported.path)
    assert done.returncode == 1 and "add --val-data ANNOTATIONS.json IMAGE_FOLDER" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchscript", "executorch"])
def test_the_command_exports_and_says_what_it_compared(format, tmp_path):
    need(format)
    config = tmp_path / "small.yaml"
    config.write_text(small_config("RetinaNet").dump())
    Image.fromarray(picture(60, 80)).save(tmp_path / "photo.png")
    output = tmp_path / f"model{FORMATS[format]}"
    done = command("export", config, "--format", format, "--output", output, "--random-weights",
                   "--image", tmp_path / "photo.png", "--image-size", "128", "160")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"RetinaNet as {format} in" in done.stdout and "your image 0" in done.stdout
    # ExecuTorch writes about processors; nobody else has anything to say.
    assert [line for line in done.stderr.splitlines() if "cpuinfo_utils" not in line] == []
    assert load(output).info.architecture == "RetinaNet"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("format", list(FORMATS))
@pytest.mark.parametrize(
    "config",
    [
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    ],
)
def test_full_size_models_are_exported_and_proved(config, format, tmp_path):
    need(format)
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE, cfg.MODEL.PIXEL_STD = "cpu", [60.0, 60.0, 60.0]
    torch.manual_seed(0)
    model = vary(build_model(cfg))
    size = (320, 480) if format == "executorch" else None
    path = tmp_path / f"m{FORMATS[format]}"
    exported = export(model, format, path, image_size=size, compile=False)
    assert all(sum(detections(line)) > 0 for line in exported.proof[:2])
