"""What happens before and after the network: in the file or outside of it."""

import json

import pytest
import torch
from PIL import Image
from small_models import picture, small_config, small_model
from test_export import dataset, export_small, need

from detectron2.engine.train_command import TrainOptions, run_train
from detectron2.export import UnsupportedModelError, export, load
from detectron2.export import proof as proof_module
from detectron2.export.batched import batched_model, postprocessed
from detectron2.export.command import ExportOptions, _calibration, _dataset, run_export
from detectron2.export.evaluation import table_of
from detectron2.export.exporter import _describe


@pytest.mark.parametrize("architecture", ["Mask R-CNN FPN", "Keypoint R-CNN"])
@torch.no_grad()
def test_a_file_may_scale_results_and_paste_masks(architecture):
    model = small_model(architecture)
    batched = batched_model(model)
    batched.normalizes = False
    batched = postprocessed(batched)
    info = _describe(batched, "onnx")
    info.postprocess = "in"
    info.pixel_mean, info.pixel_std = model.pixel_mean.flatten().tolist(), [60.0] * 3
    case = proof_module._Case("", [proof_module._picture(s, 3, 0) for s in ((96, 200), (130, 140))])
    expected = proof_module._eager(model, case.images, info)
    assert expected[0]["instances"].image_size == (144, 300)
    assert proof_module._divergence(batched, info, case, expected).endswith("runtime diverged.")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchscript", "onnx", "openvino"])
@pytest.mark.parametrize("architecture", ["Mask R-CNN FPN", "Keypoint R-CNN", "RetinaNet"])
def test_processing_moves_into_and_out_of_files(architecture, format, tmp_path):
    need(format)
    exported = export_small(architecture, format, tmp_path, preprocess="out", postprocess="in")
    info = load(exported.path).info
    assert info.postprocess == "in" and info.pixel_std == [60.0] * 3
    (found,) = exported.predict([picture(90, 140, 5)])
    assert found["instances"].image_size == (90, 140)


def test_processing_that_a_format_cannot_hold_is_refused(tmp_path):
    model = small_model("Semantic FPN")
    with pytest.raises(ValueError, match="preprocess is 'inside'; use 'in' or 'out'"):
        export(model, "onnx", tmp_path / "m.onnx", preprocess="inside")
    with pytest.raises(ValueError, match=r"postprocess='in' is for torchscript, .*not for pt2"):
        export(model, "pt2", tmp_path / "m.pt2", postprocess="in")
    with pytest.raises(UnsupportedModelError, match="SemanticSegmentor returns something else"):
        postprocessed(batched_model(model))


def test_datasets_to_calibrate_and_evaluate_on_are_found(tmp_path):
    annotations, photos = dataset(tmp_path)
    images = _calibration(str(photos))
    assert len(images) == 2 and images[1].shape == (60, 80, 3) and len(images[:1]) == 1
    with pytest.raises(FileNotFoundError, match="no image, no folder and no pattern"):
        _calibration(str(tmp_path / "nothing"))
    options = {"config": "c", "format": "onnx", "output": tmp_path / "m.onnx"}
    name = _dataset(ExportOptions(**options, val_data=(annotations, photos)))
    assert len(_calibration(name)) == 2
    with pytest.raises(ValueError, match=r"no dataset 'mine'; give the name of a registered one"):
        _dataset(ExportOptions(**options, dataset="mine"))
    with pytest.raises(ValueError, match="--eval or --val-data, not both"):
        _dataset(ExportOptions(**options, dataset="x", val_data=(annotations, photos)))


def test_metrics_of_model_and_file_stand_beside_each_other():
    none = float("nan")
    text = table_of({"bbox": {"AP": (40.0, 39.5), "APl": (none, none), "APs": (0.0, none)}})
    rows = [line.split() for line in text.splitlines()[2:]]
    assert rows[0] == ["bbox", "AP", "40.00", "39.50", "-0.50"]
    assert [row[1] for row in rows] == ["AP", "APs"]  # no large object is in the dataset
    assert table_of({"bbox": {"AP": (none, none)}}).startswith("Neither the model nor the file")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what NNCF imports, of its own code
def test_the_command_quantizes_and_evaluates(tmp_path, capsys):
    need("openvino")
    pytest.importorskip("nncf", reason="8-bit OpenVINO files are made with it")
    annotations, photos = dataset(tmp_path)
    Image.fromarray(picture(60, 80)).save(photos / "another.png")
    config = tmp_path / "small.yaml"
    config.write_text(small_config("RetinaNet").dump())
    exported = run_export(
        ExportOptions(
            config=str(config),
            format="openvino",
            output=tmp_path / "m.xml",
            random_weights=True,
            int8=str(photos),
            val_data=(annotations, photos),
        )
    )
    printed = capsys.readouterr().out
    assert "calibrated on 3 images" in printed and "Neither the model nor the file" in printed
    assert "Average Precision" not in printed  # of each evaluation, which would bury the table
    # Random weights find nothing, of which there is no AP to lose.
    report = json.loads((tmp_path / "m.int8.json").read_text())
    assert report["metrics"]["bbox"]["AP"] == [None, None] and report["lost"] == {}
    assert list(exported.metrics["bbox"])[0] == "AP"
    assert json.loads(exported.info.to_json())["int8_images"] == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what NNCF imports, of its own code
def test_a_model_is_fine_tuned_for_integers_and_exported(tmp_path):
    need("openvino")
    pytest.importorskip("nncf", reason="8-bit OpenVINO files are made with it")
    annotations, photos = dataset(tmp_path)
    cfg = small_config("RetinaNet")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.SOLVER.IMS_PER_BATCH = (96,), 2
    (tmp_path / "small.yaml").write_text(cfg.dump())
    tuned = tmp_path / "tuned"
    options = [
        "TRAINING.QUANTIZATION.ENABLED=True",
        "SOLVER.MAX_ITER=2",
        "DATALOADER.NUM_WORKERS=0",
    ]
    run_train(
        TrainOptions(
            config=str(tmp_path / "small.yaml"),
            train_data=(annotations, photos),
            random_weights=True,
            output=tuned,
            device="cpu",
            overrides=options,
        )
    )
    assert "layers round to 8 bits while they train" in (tuned / "log.txt").read_text()
    exported = run_export(
        ExportOptions(
            config=str(tmp_path / "small.yaml"),
            weights=str(tuned / "model_final.pth"),
            format="openvino",
            output=tmp_path / "m.xml",
            int8=str(photos),
            val_data=(annotations, photos),
        )
    )
    report = json.loads((tmp_path / "m.int8.json").read_text())
    assert report["layers"] == exported.int8_report.layers > 20
    assert list(report["metrics"]["bbox"])[0] == "AP"
