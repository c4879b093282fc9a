"""The balloon example runs as its README says, on a folder of the same layout."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples" / "balloon" / "balloon.py"


def write_folder(folder, count):
    folder.mkdir(parents=True)
    entries = {}
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
        polygon = {
            "name": "polygon",
            "all_points_x": [20, 60, 60, 20],
            "all_points_y": [10, 10, 50, 50],
        }
        rect = {"name": "rect", "x": 5, "y": 5, "width": 30, "height": 20}
        regions = {
            "0": {"shape_attributes": polygon, "region_attributes": {}},
            "1": {
                "shape_attributes": rect,
                "region_attributes": {"object_name": "calpis water"},
            },
        }
        entries[f"{index}.jpg"] = {"filename": f"{index}.jpg", "regions": regions}
    (folder / "via_region_data.json").write_text(json.dumps(entries))


def test_balloon_example_trains_evaluates_and_predicts(tmp_path):
    write_folder(tmp_path / "data" / "train", 4)
    write_folder(tmp_path / "data" / "val", 2)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path / "data", "--output", out, "--iterations", "5"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "AP50" in done.stdout  # evaluated at the end of the training
    assert sorted(p.name for p in (out / "predictions").iterdir()) == ["0.jpg", "1.jpg"]
    images = json.loads((out / "predictions.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["0.jpg", "1.jpg"]
