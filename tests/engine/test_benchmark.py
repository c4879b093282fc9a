"""`detectron2 benchmark` measures what it says and refuses to compare unlike work."""

import json

import numpy as np
import pytest
from PIL import Image

from detectron2.engine.benchmark import Benchmark, unlike
from detectron2.engine.benchmark_command import BenchmarkOptions, run_benchmark

SMALL_MODEL = "Quickstart/mask_rcnn_R_50_narrow_FPN.yaml"


def measured(name="fp32", sizes=((96, 128),), detections=(20,)):
    return Benchmark(name, [0.1], {}, list(sizes), list(detections))


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
    assert written["machine"]["torch"]
    assert "times as fast" in capsys.readouterr().out


def test_convention_unlike_work_gets_no_ratio():
    assert unlike(measured(), measured("bf16")) is None
    assert "60" in unlike(measured(), measured("bf16", sizes=[(60, 80)]))
    assert "found 20" in unlike(measured(), measured("bf16", detections=[5]))


def test_unknown_variant_is_named(photo):
    with pytest.raises(ValueError, match="fp8"):
        run_benchmark(BenchmarkOptions(SMALL_MODEL, [photo], variants=["fp8"]))
