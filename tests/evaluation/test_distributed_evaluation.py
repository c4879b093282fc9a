"""Two processes (gloo) give the numbers of one. What they run is at the top level of this file."""

import contextlib
import io
import json
import pickle
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from detectron2.evaluation import COCOEvaluator, LVISEvaluator, SemSegEvaluator
from detectron2.evaluation.spool import PredictionSpool
from detectron2.utils import comm


def run(evaluator):
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def register_maps(folder):
    rng = np.random.default_rng(0)
    records = []
    for i in range(5):
        path = Path(folder, f"{i}.png")
        if not path.exists():
            Image.fromarray(rng.integers(0, 3, (20, 30)).astype(np.uint8)).save(path)
        records.append({"file_name": str(i), "sem_seg_file_name": str(path)})
    DatasetCatalog.register("two_ranks_maps", lambda: records)
    MetadataCatalog.get("two_ranks_maps").set(stuff_classes=list("abc"), ignore_label=255)
    return records


def evaluate_share(evaluator, images):
    """Process every image of this rank, the last ones first, and evaluate."""
    evaluator.reset()
    share = list(images)[comm.get_rank() :: comm.get_world_size()]
    for record, output in reversed(share):
        evaluator.process([record], [output])
    return run(evaluator)


def evaluate_everything(folder, metadata, detections):
    """Results of this rank, by name, into a file."""
    MetadataCatalog.get("two_ranks").set(**metadata)
    images = [({"image_id": i}, {"instances": instances}) for i, instances in detections.items()]
    results = {
        "coco": evaluate_share(COCOEvaluator("two_ranks"), images),
        "coco_files": evaluate_share(COCOEvaluator("two_ranks", output_dir=folder), images),
        "lvis": evaluate_share(LVISEvaluator("two_ranks"), images),
    }
    adopt = PredictionSpool.adopt
    PredictionSpool.adopt = lambda self, description: False  # as on a machine of its own
    results["out_of_sight"] = evaluate_share(COCOEvaluator("two_ranks"), images)
    PredictionSpool.adopt = adopt
    scores = torch.rand(5, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    maps = [(r, {"sem_seg": s}) for r, s in zip(register_maps(folder), scores)]
    results["sem_seg"] = evaluate_share(
        SemSegEvaluator("two_ranks_maps", output_dir=f"{folder}/maps"), maps
    )
    name = f"{comm.get_world_size()}-{comm.get_rank()}.json"
    Path(folder, name).write_text(json.dumps(results))


@pytest.fixture
def lvis_like(make_coco):
    coco = make_coco(crowds=False)
    for image in coco.content["images"]:
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [3, 7, 18], []
        image["coco_url"] = f"http://host/val2017/{image['file_name']}"
    for category, frequency in zip(coco.content["categories"], "rcf"):
        category["frequency"] = frequency
    coco.path.write_text(json.dumps(coco.content))
    return coco


def test_convention_two_processes_give_the_numbers_of_one(lvis_like, tmp_path):
    metadata = MetadataCatalog.get(lvis_like.name)
    keys = ("json_file", "thing_classes", "thing_dataset_id_to_contiguous_id")
    entries = {key: getattr(metadata, key) for key in keys}
    arguments = (str(tmp_path), entries, lvis_like.detections)
    launch(evaluate_everything, 2, dist_url="auto", args=arguments, timeout=timedelta(seconds=120))
    try:
        evaluate_everything(*arguments)
    finally:
        DatasetCatalog.remove("two_ranks_maps")
        MetadataCatalog.remove("two_ranks_maps")
        MetadataCatalog.remove("two_ranks")
    one, first, second = (
        json.loads((tmp_path / name).read_text()) for name in ("1-0.json", "2-0.json", "2-1.json")
    )
    assert json.dumps(first) == json.dumps(one)  # as text, where NaN is NaN
    assert one["coco"]["segm"]["AP"] > 10 and one["sem_seg"]["sem_seg"]["mIoU"] > 10
    assert second == {
        "coco": {},
        "coco_files": {},
        "lvis": None,
        "out_of_sight": {},
        "sem_seg": None,
    }
    assert not (tmp_path / ".unfinished").exists()


def test_without_distributed_each_process_evaluates_its_own(make_coco, monkeypatch):
    monkeypatch.setattr(comm, "gather", lambda *args, **kwargs: pytest.fail("gathered"))
    coco = make_coco()
    evaluator = COCOEvaluator(coco.name, distributed=False)
    coco.feed(evaluator)
    assert [p["image_id"] for p in evaluator._gather_predictions()] == list(coco.detections)


def test_convention_code_that_gathers_predictions_itself_gets_a_list(make_coco):
    coco = make_coco()
    evaluator = COCOEvaluator(coco.name)
    coco.feed(evaluator)
    sent = pickle.loads(pickle.dumps(evaluator._predictions))
    assert type(sent) is list and len(sent) == len(coco.detections)
    assert list(sent[0]["instances"]) == list(evaluator._predictions[0]["instances"])


def test_other_processes_report_nothing(make_coco, monkeypatch):
    coco = make_coco()
    evaluators = [COCOEvaluator(coco.name), LVISEvaluator(coco.name)]
    for evaluator in evaluators:
        coco.feed(evaluator)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert [evaluator.evaluate() for evaluator in evaluators] == [{}, None]
