"""The verbs of `detectron2 dataset`, run in this process."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from folder_datasets import CLASSES, make_content

from detectron2.cli.main import app
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.auto import recognize
from detectron2.data.datasets.convert import write_content


@pytest.fixture
def data(tmp_path):
    known = set(DatasetCatalog.list())
    content = make_content(tmp_path / "source", "polygons", images=6)
    write_content(content, tmp_path / "data", "yolo")
    yield tmp_path / "data"
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def run(*arguments):
    result = CliRunner().invoke(app, ["dataset", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("verb", ["convert", "names", "sample", "split", "stats", "visualize"])
def test_every_verb_has_help_with_an_example(verb):
    assert f"detectron2 dataset {verb}" in " ".join(run(verb, "--help").split())


def test_names():
    names = run("names", "voc_2012").split()
    assert names == ["voc_2012_train", "voc_2012_trainval", "voc_2012_val"]


def test_convert_says_what_is_written(data, tmp_path):
    said = run("convert", data, tmp_path / "out", "--to", "voc")
    assert "12 images with 30 annotations" in said and "<polygon>" in said
    assert recognize(tmp_path / "out").format == "Pascal VOC"


def test_what_is_lost_is_said(tmp_path):
    content = make_content(tmp_path / "source", "keypoints")
    write_content(content, tmp_path / "poses", "coco")
    said = run("convert", tmp_path / "poses", tmp_path / "out", "--to", "voc")
    assert "Not carried over:" in said and "12 objects lose their keypoints" in said


def test_split_keeps_the_format_of_the_source(data, tmp_path):
    said = run("split", data, tmp_path / "out", "--val", 0.25, "--test", 0.25)
    found = recognize(tmp_path / "out")
    assert found.format == "YOLO segments" and "dealt anew" in said
    assert {split: len(read()) for split, read in found.splits.items()} == {
        "train": 6, "val": 3, "test": 3
    }  # fmt: skip


def test_sample(data, tmp_path):
    run("sample", data, tmp_path / "out", "--count", 4, "--to", "coco")
    found = recognize(tmp_path / "out")
    assert found.format == "COCO" and list(found.classes) == CLASSES
    assert {split: len(read()) for split, read in found.splits.items()} == {"train": 2, "val": 2}


def test_a_sample_of_a_small_dataset_is_half_of_it(data, tmp_path):
    assert "6 images" in run("sample", data, tmp_path / "out")


def test_stats_write_one_page_that_needs_nothing_else(data, tmp_path):
    page = tmp_path / "stats.html"
    said = run("stats", data, "--output", page, "--pictures", 2)
    assert "15 polygons" in said and "zebra" in said
    html = page.read_text()
    for part in ("2 classes", "Objects of each class", "Aspect ratio",
                 "Where the centres are", "64 × 48", "zebra"):  # fmt: skip
        assert part in html
    assert html.count('src="data:image/jpeg;base64,') == 2 and "http://" not in html.replace(
        "http://www.w3.org/2000/svg", ""
    )


def test_pictures_of_one_class(data, tmp_path):
    page = tmp_path / "pictures.html"
    run("visualize", data, "--output", page, "--class", "zebra", "--limit", 3)
    assert page.read_text().count("<figure>") == 3
    with pytest.raises(ValueError, match="There is no class 'cow'"):
        run("visualize", data, "--output", page, "--class", "cow")


def test_a_coco_file_with_its_image_folder_will_do(data, tmp_path):
    run("convert", data, tmp_path / "coco", "--to", "coco")
    path = tmp_path / "coco" / "annotations" / "instances_val.json"
    said = run("convert", path, tmp_path / "out", "--to", "yolo", "--image-root",
               tmp_path / "coco" / "val")  # fmt: skip
    assert "6 images" in said and "no splits" in said
    assert len(json.loads(path.read_text())["images"]) == 6
