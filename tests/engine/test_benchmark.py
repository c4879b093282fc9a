"""`detectron2 benchmark` measures what it says and refuses to compare unlike work."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectron2 import model_zoo
from detectron2.engine.benchmark import Benchmark, unlike
from detectron2.engine.benchmark_command import BenchmarkOptions, run_benchmark
from detectron2.engine.load_predictor import ModelSource, load_predictor
from detectron2.engine.torchvision_peer import torchvision_weights
from detectron2.engine.train_command import TrainOptions, run_evaluate
from detectron2.modeling import build_model

SMALL_MODEL = "Quickstart/mask_rcnn_R_50_narrow_FPN.yaml"


def measured(name="fp32", sizes=((96, 128),), detections=(20,), score=0.05, limit=100):
    thresholds = {"score": score, "limit": limit}
    return Benchmark(name, [0.1], {}, list(sizes), list(detections), thresholds)


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_every_stage_and_variant_is_measured_and_written(photo, tmp_path, capsys):
    options = BenchmarkOptions(
        SMALL_MODEL,
        [photo],
        random_weights=True,
        repeats=2,
        device="cpu",
        json_file=tmp_path / "times.json",
    )
    plain, fast = run_benchmark(options)
    assert len(plain.seconds) == len(fast.seconds) == 2
    assert set(plain.stages) == {
        "resize", "backbone", "proposal_generator", "roi_heads", "other"
    }  # fmt: skip
    stages = sum(seconds[0] for seconds in plain.stages.values())
    assert stages == pytest.approx(plain.seconds[0])
    written = json.loads((tmp_path / "times.json").read_text())
    assert [row["name"] for row in written["results"]] == ["plain", "fp32"]
    assert written["machine"]["torch"] and written["unlike"] == []
    if sys.platform == "linux":
        assert 2**20 < fast.peak_bytes < 2**33
    assert written["results"][0]["thresholds"] == {"score": 0.05, "limit": 100}
    assert "times as fast" in capsys.readouterr().out


def test_convention_unlike_work_gets_no_ratio():
    assert unlike(measured(), measured("bf16")) is None
    assert "60" in unlike(measured(), measured("bf16", sizes=[(60, 80)]))
    assert "found 20" in unlike(measured(), measured("bf16", detections=[5]))
    assert "scores above 0.05, file scores above 0.5" in unlike(
        measured(), measured("file", score=0.5)
    )
    assert "detections up to 100" in unlike(measured(), measured("file", limit=300))


def test_unknown_variant_is_named(photo):
    with pytest.raises(ValueError, match="fp8"):
        run_benchmark(BenchmarkOptions(SMALL_MODEL, [photo], variants=["fp8"]))


def test_unknown_peers_and_files_with_options_of_configs_are_refused(photo):
    options = BenchmarkOptions(SMALL_MODEL, [photo], device="cpu")
    with pytest.raises(ValueError, match="--compare has 'tensorrt'; use torchvision"):
        run_benchmark(replace(options, compare=["tensorrt"]))
    with pytest.raises(ValueError, match="leave out --weights"):
        run_benchmark(replace(options, config="model.onnx", random_weights=True))
    with pytest.raises(ValueError, match="of which there are no variants"):
        run_benchmark(replace(options, config="model.onnx", accuracy=True))


# ---- torchvision


def test_weights_get_the_names_and_shapes_of_torchvisions_mask_rcnn():
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", 90])
    model = build_model(cfg)
    weights = torchvision_weights(model)
    recorded = json.loads(Path(__file__).with_name("torchvision_names.json").read_text())
    assert {name: list(value.shape) for name, value in weights.items()} == recorded
    ours = model.roi_heads.box_predictor.cls_score.weight
    theirs = weights["roi_heads.box_predictor.cls_score.weight"]
    assert (theirs[0] == ours[90]).all() and (theirs[1] == ours[0]).all()


def test_models_that_torchvision_has_not_are_named():
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.NUM_CONV", 1])
    with pytest.raises(ValueError, match="have no layer 'roi_heads.box_head.conv1.weight'"):
        torchvision_weights(build_model(cfg))


def program(folder, lines, name="python"):
    path = folder / name
    path.write_text("#!/bin/sh\n" + lines)
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are shell scripts")
def test_torchvision_is_found_in_another_environment_or_missed_with_a_sentence(
    photo, tmp_path, capsys
):
    options = BenchmarkOptions(
        SMALL_MODEL, [photo], random_weights=True, repeats=1, device="cpu", variants=["fp32"]
    )
    options = replace(options, compare=["torchvision"], overrides=["MODEL.FPN.NORM=''"])
    for python, message in (
        (program(tmp_path, "exit 1"), "cannot import torchvision.*--compare-python PATH"),
        (str(tmp_path / "none"), "is no Python to run torchvision with"),
        (
            program(tmp_path, "[ $1 = -c ] || { echo wrong size >&2; exit 1; }", "second"),
            "no model like this one: wrong size",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run_benchmark(replace(options, compare_python=python))
    answer = {
        "seconds": [2.0], "stages": [{"backbone": 1.5, "other": 0.5}], "detections": [7],
        "peak_bytes": 2**20, "version": "0.0", "score": 0.05, "limit": 100,
    }  # fmt: skip
    python = program(tmp_path, f"echo '{json.dumps(answer)}'", "third")
    with pytest.raises(ValueError, match=r"found \d+ objects where torchvision found 7"):
        run_benchmark(replace(options, compare_python=python))
    printed = capsys.readouterr().out
    assert "2000" in printed and "1500" in printed and "times as fast" not in printed


@pytest.mark.slow
def test_exported_files_are_measured_beside(photo, tmp_path, capsys):
    options = BenchmarkOptions(
        SMALL_MODEL, [photo], random_weights=True, repeats=1, device="cpu", threads=1
    )
    names = [each.name for each in run_benchmark(replace(options, compare=["onnxruntime"]))]
    assert names == ["plain", "fp32", "onnxruntime"]
    assert "times as fast" in capsys.readouterr().out


# ---- accuracy


def val_data(folder):
    images, annotations = [], []
    for index in range(2):
        pixels = np.full((60, 80, 3), 90 + 40 * index, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": 60, "width": 80})
        box = {"bbox": [10, 10, 20, 30], "area": 600, "segmentation": [[10, 10, 30, 10, 30, 40]]}
        row = {"id": index + 1, "image_id": index, "category_id": 1, "iscrowd": 0}
        annotations.append({**row, **box})
    categories = [{"id": k, "name": name} for k, name in enumerate("abc", 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return folder / "val.json", folder


def test_accuracy_is_compared_across_precisions(photo, tmp_path, capsys):
    run_benchmark(
        BenchmarkOptions(
            SMALL_MODEL, [photo], random_weights=True, repeats=1, device="cpu", accuracy=True,
            variants=["fp32", "bf16"], val_data=val_data(tmp_path), json_file=tmp_path / "a.json",
            overrides=["MODEL.ROI_HEADS.NUM_CLASSES=3"],
        )
    )  # fmt: skip
    accuracy = json.loads((tmp_path / "a.json").read_text())["accuracy"]
    assert list(accuracy) == ["fp32", "bf16"]
    assert {"AP", "AP50"} <= set(accuracy["bf16"]["segm"])
    assert "bbox AP50" in capsys.readouterr().out


def test_eval_computes_in_the_precision_that_is_asked_for(tmp_path, monkeypatch):
    import torch

    from detectron2.engine import train_command

    used = []
    monkeypatch.setattr(
        train_command.DefaultTrainer,
        "test",
        lambda cfg, model: used.append(
            {getattr(m, "compute_dtype", None) for m in model.modules()}
        ),
    )
    cfg = model_zoo.get_config(SMALL_MODEL)
    cfg.merge_from_list(["MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.DEVICE", "cpu"])
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "w.pth")
    options = TrainOptions(
        SMALL_MODEL, val_data=val_data(tmp_path), weights=str(tmp_path / "w.pth"),
        output=tmp_path / "out", device="cpu", precision="bf16",
    )  # fmt: skip
    run_evaluate(options)
    assert torch.bfloat16 in used[0] and torch.float16 not in used[0]
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        run_evaluate(replace(options, precision="fp8"))
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match="cannot run in 'bf16': .*OpenVINO also in 'bf16'"):
        load_predictor(ModelSource(str(tmp_path / "model.onnx"), precision="bf16"))
