"""The quick start as a user runs it, and its report as a user sees it."""

import json
import os
import resource
import subprocess
import sys

import pytest
from PIL import Image


def quickstart(folder, *arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(
        [sys.executable, "-m", "detectron2.cli.main", "quickstart", "--output", folder, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert done.returncode == 0, done.stderr
    return done.stdout, max(before, after)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The one run of all tests here: its folder, what it printed, its peak memory in KiB."""
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, *quickstart(folder)


@pytest.mark.timeout(900)
def test_convention_whole_quickstart_reaches_ap50_of_80_in_two_gigabytes(whole_run):
    folder, _, peak_kilobytes = whole_run
    metrics = json.loads((folder / "metrics_summary.json").read_text())["metrics"]
    assert metrics["bbox"]["AP50"] >= 80 and metrics["segm"]["AP50"] >= 80, metrics
    assert peak_kilobytes < 2 * 1024**2


def test_report_opens_in_a_browser(whole_run, open_page):
    opened = open_page(whole_run[0] / "report.html")
    assert opened.console == [] and opened.requests == [] and opened.broken_pictures() == []
    page = opened.page
    assert page.locator("svg polyline").count() == 6  # six losses in four charts
    assert page.locator("figure").count() == 12
    assert page.locator("img").count() == 24  # ground truth beside prediction
    table = page.locator("table").first.inner_text()
    assert "AP50" in table and "bbox" in table and "segm" in table


def test_everything_that_was_promised_is_written(whole_run):
    folder, *_ = whole_run
    for name in ("model.pth", "config.yaml", "metadata.json", "metrics.json", "log.txt"):
        assert (folder / name).stat().st_size > 0, name
    pictures = sorted((folder / "predictions").iterdir())
    assert len(pictures) == 60
    with Image.open(pictures[0]) as picture:
        assert picture.size == (384, 288)


def test_last_line_names_the_report_and_the_next_command(whole_run):
    folder, printed, _ = whole_run
    *_, times, last = printed.strip().splitlines()
    assert "seconds in all: draw the dataset" in times
    assert str(folder / "report.html") in last
    assert "detectron2 predict" in last and str(folder / "model.pth") in last


def test_the_next_command_works_on_a_picture(whole_run, tmp_path):
    folder, *_ = whole_run
    picture = next((folder / "dataset" / "val").glob("*.png"))
    done = subprocess.run(
        [sys.executable, "-m", "detectron2.cli.main", "predict", picture, "--config",
         folder / "config.yaml", "--weights", folder / "model.pth", "--output", tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    categories = json.loads((tmp_path / "predictions.json").read_text())["categories"]
    assert [c["name"] for c in categories] == ["disc", "ring", "square", "triangle", "star"]


@pytest.mark.slow
def test_training_can_be_cut_short(tmp_path):
    quickstart(tmp_path, "--iterations", "3")
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert max(json.loads(line).get("iteration", 0) for line in lines) < 3
    assert (tmp_path / "report.html").exists()
