"""The OpenVINO example runs as its README says, on a small model."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from small_models import picture, small_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "openvino" / "detect.py"


def test_openvino_example_finds_what_pytorch_finds(tmp_path):
    pytest.importorskip("openvino", reason="the example needs OpenVINO")
    config = tmp_path / "small.yaml"
    config.write_text(small_config("Mask R-CNN C4").dump())
    Image.fromarray(picture(96, 128)).save(tmp_path / "photo.png")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path / "photo.png"), "--config", str(config),
         "--random-weights", "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "detections, as in PyTorch" in done.stdout
    with Image.open(tmp_path / "out" / "detections.png") as drawing:
        assert drawing.size == (153, 115)
