"""kill -9 in the middle, then on: the same numbers, and no image is seen twice."""

import contextlib
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from detectron2.data import MetadataCatalog

SCRIPT = """
import json, os, pickle, signal, sys
import numpy as np, torch
from torch import nn
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.common import DatasetFromList
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator, inference_on_dataset

folder, kill_after, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "resume"
metadata, detections, maps = pickle.load(open(f"{folder}/input.pkl", "rb"))
MetadataCatalog.get("killed").set(**metadata)
records = [{"image_id": i, "file_name": f"{i}.jpg", "sem_seg_file_name": m}
           for i, m in zip(detections, maps)]
DatasetCatalog.register("killed", lambda: records)
MetadataCatalog.get("killed").set(stuff_classes=list("abc"), ignore_label=255)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
    def forward(self, inputs):
        if len(seen) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(inputs[0]["image_id"])
        scores = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(len(inputs)))
        return [{"instances": detections[x["image_id"]], "sem_seg": scores} for x in inputs]

seen, loaded = [], []
def load(record):
    loaded.append(record["image_id"])
    return record
kinds = COCOEvaluator, SemSegEvaluator
evaluator = [kind("killed", output_dir=f"{folder}/out") for kind in kinds]
loader = build_detection_test_loader(DatasetFromList(records), mapper=load, num_workers=0)
results = inference_on_dataset(Model(), loader, evaluator, resume=resume)
print("RESULT", json.dumps({"results": results, "seen": seen, "loaded": loaded}))
"""


def run(folder, kill_after=-1, resume=False):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, str(kill_after), "resume" if resume else ""],
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return done.returncode, json.loads(lines[0][7:]) if lines else None, done.stderr


@pytest.fixture
def folder(make_coco, tmp_path):
    import numpy as np
    from PIL import Image

    coco = make_coco()
    metadata = MetadataCatalog.get(coco.name)
    keys = ("json_file", "thing_classes", "thing_dataset_id_to_contiguous_id")
    rng = np.random.default_rng(0)
    maps = []
    for image_id in coco.detections:
        maps.append(str(tmp_path / f"{image_id}.png"))
        Image.fromarray(rng.integers(0, 3, (20, 30)).astype(np.uint8)).save(maps[-1])
    content = ({key: getattr(metadata, key) for key in keys}, coco.detections, maps)
    (tmp_path / "input.pkl").write_bytes(pickle.dumps(content))
    return tmp_path


def test_convention_a_killed_evaluation_goes_on_where_it_stopped(folder):
    _, whole, error = run(folder)
    assert whole is not None, error
    images = whole["seen"]
    code, nothing, _ = run(folder, kill_after=5)
    assert code == -9 and nothing is None
    code, nothing, _ = run(folder, kill_after=3, resume=True)
    assert code == -9 and nothing is None
    code, rest, error = run(folder, resume=True)
    assert code == 0, error
    assert rest["seen"] == rest["loaded"] == images[8:]
    assert list(whole["results"]) == ["bbox", "segm", "sem_seg"]
    assert json.dumps(rest["results"]) == json.dumps(whole["results"])
    assert not list(Path(folder, "out").glob(".unfinished"))


def test_evaluators_without_memory_see_every_image_again(make_coco, tmp_path):
    from detectron2.evaluation import COCOEvaluator, DatasetEvaluators, inference_on_dataset

    coco = make_coco()
    inputs = [[{"image_id": image_id}] for image_id in coco.detections]

    class Stop(Exception):
        pass

    def model(batch):
        seen.append(batch[0]["image_id"])
        if len(seen) == limit:
            raise Stop
        return [{"instances": coco.detections[batch[0]["image_id"]]}]

    def evaluators():
        kept = COCOEvaluator(coco.name, output_dir=str(tmp_path / "out"))
        forgetful = COCOEvaluator(coco.name, tasks=("bbox",))
        forgetful._derive_coco_results = lambda *args, **kwargs: {"AP": 0.0}
        return kept, DatasetEvaluators([kept, forgetful])

    seen, limit = [], 4
    with pytest.raises(Stop):
        inference_on_dataset(model, inputs, evaluators()[1])
    seen, limit = [], -1
    kept, both = evaluators()
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(AssertionError, match="report"):
        inference_on_dataset(model, inputs, both, resume=True)
    assert seen == list(coco.detections)
    assert [p["image_id"] for p in kept._predictions] == seen
