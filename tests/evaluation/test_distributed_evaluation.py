"""Evaluators of two processes, simulated: what the second one holds is gathered by the first."""

import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, LVISEvaluator, SemSegEvaluator, sem_seg_evaluation
from detectron2.utils import comm


@pytest.fixture
def two_ranks(monkeypatch):
    """Call with the state of rank 1; `comm` then behaves as on rank 0 of two."""

    def gather_from(other):
        for name in ("gather", "all_gather"):
            fake = lambda data, dst=0, group=None: [data, other]  # noqa: E731
            monkeypatch.setattr(comm, name, fake)
            monkeypatch.setattr(sem_seg_evaluation, "all_gather", fake)

    return gather_from


@pytest.fixture
def not_main(monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "gather", lambda data, dst=0, group=None: [])
    monkeypatch.setattr(sem_seg_evaluation, "is_main_process", lambda: False)


def split(coco, evaluators):
    """Give every second image to the second evaluator."""
    for evaluator in evaluators:
        evaluator.reset()
    for number, (image_id, instances) in enumerate(coco.detections.items()):
        evaluators[number % 2].process([{"image_id": image_id}], [{"instances": instances}])


def run(evaluator):
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def test_coco_predictions_are_gathered(make_coco, two_ranks):
    coco = make_coco()
    alone = COCOEvaluator(coco.name, distributed=False)
    coco.feed(alone)
    expected = run(alone)
    ranks = [COCOEvaluator(coco.name) for _ in range(2)]
    split(coco, ranks)
    two_ranks(ranks[1]._predictions)
    got = run(ranks[0])
    np.testing.assert_array_equal(list(got["segm"].values()), list(expected["segm"].values()))


def test_without_distributed_each_process_evaluates_its_own(make_coco, two_ranks):
    coco = make_coco()
    ranks = [COCOEvaluator(coco.name, distributed=False) for _ in range(2)]
    split(coco, ranks)
    two_ranks(ranks[1]._predictions)
    images = [p["image_id"] for p in ranks[0]._gather_predictions()]
    assert images == list(coco.detections)[::2]


def test_other_processes_report_nothing(make_coco, not_main):
    coco = make_coco()
    evaluator = COCOEvaluator(coco.name)
    coco.feed(evaluator)
    assert evaluator.evaluate() == {}
    lvis = LVISEvaluator(coco.name)
    coco.feed(lvis)
    assert lvis.evaluate() is None


def test_confusion_matrices_are_added(tmp_path, two_ranks):
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 3, (4, 20, 30)).astype(np.uint8)
    records = []
    for i, labels in enumerate(maps):
        Image.fromarray(labels).save(tmp_path / f"{i}.png")
        records.append({"file_name": str(i), "sem_seg_file_name": str(tmp_path / f"{i}.png")})
    name = f"distributed_sem_seg_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=list("abc"), ignore_label=255)
    scores = torch.from_numpy(rng.uniform(size=(4, 3, 20, 30)))
    try:
        alone, first, second = (SemSegEvaluator(name, distributed=d) for d in (False, True, True))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for i, record in enumerate(records):
        for evaluator in (alone, (first, second)[i % 2]):
            evaluator.process([record], [{"sem_seg": scores[i]}])
    two_ranks((second._conf_matrix, second._b_conf_matrix, second._predictions))
    expected, got = alone.evaluate()["sem_seg"], first.evaluate()["sem_seg"]
    assert got == expected
