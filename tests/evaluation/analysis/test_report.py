import contextlib
import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.analysis import compare, read_run, run_of, write_report
from detectron2.evaluation.analysis.report import write_comparison, write_metrics


def evaluated(coco, **options):
    evaluator = COCOEvaluator(coco.name, distributed=False, **options)
    coco.feed(evaluator)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    return run_of(evaluator, "tiny")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return folder


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_a_report_has_the_page_json_and_tables(make_coco, photos, tmp_path):
    page = write_report(evaluated(make_coco()), tmp_path / "out", str(photos))
    assert page.name == "report.html" and page.read_text().count("<img") == 24
    summary = json.loads((page.parent / "summary.json").read_text(), parse_constant=refuse)
    assert set(summary["tasks"]) == {"bbox", "segm"}
    assert 0 < summary["tasks"]["segm"]["metrics"]["AP"] < 100
    with open(page.parent / "segm_classes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["class"] for row in rows] == ["c3", "c7", "c18"]
    expected = [row["AP"] for row in summary["tasks"]["segm"]["classes"]]
    assert [float(row["AP"]) for row in rows] == expected
    names = {path.name for path in page.parent.glob("bbox_*.csv")}
    assert names == {
        f"bbox_{name}.csv"
        for name in ("classes", "class_curves", "class_f1", "confusion", "images", "aspects",
                     "sizes", "scores", "precision_recall")
    }  # fmt: skip


@pytest.mark.parametrize("image_id", [lambda n: n + 1, lambda n: f"image {n}"])
def test_a_report_can_be_read_again(make_coco, photos, tmp_path, image_id):
    run = evaluated(make_coco(image_id=image_id))
    write_report(run, tmp_path / "out", str(photos))
    again = read_run(tmp_path / "out")
    assert list(again.results) == list(run.results)
    assert again.image_root == str(photos) and again.tasks == run.tasks
    same = compare(run, again, "segm")
    assert same.images == []
    page = write_comparison(same, (run, again), tmp_path / "compared", str(photos))
    json.loads((page.parent / "compare.json").read_text(), parse_constant=refuse)


def test_without_the_images_there_is_a_report_all_the_same(make_coco, tmp_path, caplog):
    page = write_report(evaluated(make_coco(masks=False)), tmp_path / "out", "/nowhere")
    assert "not at hand" in page.read_text() and "is not drawn" in caplog.text


def test_other_evaluations_get_their_metrics(tmp_path):
    page = write_metrics({"sem_seg": {"mIoU": 50.0, "IoU-a": float("nan")}}, "city", tmp_path)
    assert "mIoU" in page.read_text()
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert summary["metrics"]["sem_seg"] == {"mIoU": 50.0, "IoU-a": None}
