"""`detectron2 eval --report` and `detectron2 compare`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_command_line import SMALL_MODEL, run

from detectron2 import model_zoo
from detectron2.engine.evaluate_command import evaluate_with_report
from detectron2.engine.train_command import TrainOptions, run_evaluate
from detectron2.modeling import build_model

NAMES = ["disc", "ring", "square", "triangle", "star"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Photos, COCO file and random weights of the small model."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "photos").mkdir()
    images, objects = [], []
    for image in range(1, 5):
        pixels = np.random.default_rng(image).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{image}.png")
        images.append({"id": image, "height": 96, "width": 128, "file_name": f"{image}.png"})
        for category in (1, 2):
            x, y = 10 * image, 20 * category
            outline = [x, y, x + 40, y, x + 40, y + 30, x, y + 30]
            objects.append(
                {"id": len(objects) + 1, "image_id": image, "category_id": category, "iscrowd": 0,
                 "bbox": [x, y, 40, 30], "area": 1200, "segmentation": [outline]}
            )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    cfg = model_zoo.get_config(SMALL_MODEL)
    cfg.MODEL.DEVICE = "cpu"
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model.pth")
    return folder


def options(project, output, **values):
    return TrainOptions(
        config=SMALL_MODEL,
        val_data=(project / "val.json", project / "photos"),
        weights=str(project / "model.pth"),
        output=output,
        device="cpu",
        overrides=["MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0", "INPUT.MIN_SIZE_TEST=96",
                   "DATALOADER.NUM_WORKERS=0", "TEST.DETECTIONS_PER_IMAGE=10"],
        **values,
    )  # fmt: skip


def test_eval_writes_a_report_with_the_same_metrics(project, tmp_path):
    plain = run_evaluate(options(project, tmp_path / "plain"))
    report = tmp_path / "report"
    with_report = run_evaluate(options(project, tmp_path / "out", report=report, resume=True))
    assert json.dumps(with_report) == json.dumps(plain)
    summary = json.loads((report / "summary.json").read_text())
    assert summary["images"] == 4 and summary["detections"] == 40
    assert set(summary["tasks"]) == {"bbox", "segm"}
    assert (report / "report.html").read_text().count("<img") > 0
    done = run("compare", report, report, "--output", tmp_path / "same", "--task", "segm")
    assert done.returncode == 0, done.stderr
    assert "compare.html" in done.stdout and "AP50" in done.stdout
    assert (tmp_path / "same" / "compare.json").exists()


def test_a_report_that_cannot_be_written_is_said_before_the_evaluation(project, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="output folder .*taken' cannot be written to"):
        run_evaluate(options(project, tmp_path / "out", report=tmp_path / "taken"))
    assert not list((tmp_path / "out").rglob("*.json"))


def test_evaluations_without_coco_detections_get_a_report_of_metrics(monkeypatch, tmp_path):
    from detectron2.engine import evaluate_command

    evaluated = []

    class Other:
        @staticmethod
        def reset(): ...

        @staticmethod
        def evaluate():
            evaluated.append(1)
            return {"own": {"metric": 1.0}}

    trainer = evaluate_command.DefaultTrainer
    monkeypatch.setattr(trainer, "build_evaluator", classmethod(lambda *args: Other()))
    monkeypatch.setattr(trainer, "build_test_loader", classmethod(lambda *args: []))
    cfg = model_zoo.get_config(SMALL_MODEL)
    cfg.DATASETS.TEST = ("one", "two")
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    model = torch.nn.Linear(1, 1)
    expected = evaluate_with_report(cfg, model, tmp_path)
    for name in ("one", "two"):
        assert "metric" in (tmp_path / name / "report.html").read_text()
    assert len(evaluated) == 2

    # With --resume a dataset that is done is not done again, unless something differs.
    assert evaluate_with_report(cfg, model, tmp_path, resume=True) == expected
    assert len(evaluated) == 2
    (tmp_path / "out" / "inference" / "finished_two.json").unlink()
    evaluate_with_report(cfg, model, tmp_path, resume=True)
    assert len(evaluated) == 3
    evaluate_with_report(cfg, torch.nn.Linear(2, 1), tmp_path, resume=True)
    assert len(evaluated) == 5
    evaluate_with_report(cfg, model, tmp_path)
    assert len(evaluated) == 7


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("nothing", "nothing.json"), "say --data"),
        (("a.json", "b.json", "--data", "val.json"), "does not exist"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence, tmp_path):
    done = run("compare", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr and "Traceback" not in done.stderr
