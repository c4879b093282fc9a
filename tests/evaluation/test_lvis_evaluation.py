import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch

from detectron2.evaluation import LVISEvaluator
from detectron2.structures import Boxes, Instances


@pytest.fixture
def lvis(make_coco):
    """The tiny dataset in LVIS' format: every category was looked for in every image."""
    coco = make_coco(crowds=False)
    for image in coco.content["images"]:
        image["neg_category_ids"] = [3, 7, 18]
        image["not_exhaustive_category_ids"] = []
        image["coco_url"] = f"http://host/val2017/{image.pop('file_name')}"
    for category, frequency in zip(coco.content["categories"], "rcf"):
        category["frequency"] = frequency
    return save(coco)


def save(coco):
    coco.path.write_text(json.dumps(coco.content))
    return coco


def evaluate(coco, **options):
    evaluator = LVISEvaluator(coco.name, distributed=False, **options)
    coco.feed(evaluator)
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def exact_detections(coco):
    """Detections that are the ground truth."""
    for image_id in coco.detections:
        mine = [a for a in coco.content["annotations"] if a["image_id"] == image_id]
        instances = Instances((60, 80))
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in mine)]
        instances.pred_boxes = Boxes(torch.tensor(corners))
        instances.scores = torch.linspace(0.9, 0.5, len(mine))
        instances.pred_classes = torch.tensor([(3, 7, 18).index(a["category_id"]) for a in mine])
        coco.detections[image_id] = instances


class TestNumbers:
    def test_perfect_boxes_score_100_in_every_group(self, lvis):
        exact_detections(lvis)
        metrics = evaluate(lvis)["bbox"]
        assert list(metrics) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
        for name in ("AP", "APr", "APc", "APf"):
            assert metrics[name] == pytest.approx(100)
        assert metrics["APl"] == -100  # no object is that large

    def test_groups_are_means_over_their_categories(self, lvis):
        metrics = evaluate(lvis)["bbox"]
        assert metrics["AP"] == pytest.approx(np.mean([metrics[f"AP{g}"] for g in "rcf"]))

    def test_detections_count_only_where_the_category_was_looked_for(self, lvis):
        with_all = evaluate(lvis)["bbox"]["AP"]
        for image in lvis.content["images"]:
            image["neg_category_ids"] = []
        assert evaluate(save(lvis))["bbox"]["AP"] > with_all

    def test_masks_are_scored_where_there_are_any(self, lvis):
        assert list(evaluate(lvis)) == ["bbox", "segm"]
        assert list(evaluate(lvis, tasks=("segm",))) == ["segm"]

    def test_the_limit_is_on_detections_of_all_classes(self, lvis):
        exact_detections(lvis)
        limited = evaluate(lvis, max_dets_per_image=1)["bbox"]["AP"]
        assert 0 < limited < 60


class TestInput:
    def test_without_category_map_ids_count_from_one(self, lvis):
        from detectron2.data import MetadataCatalog

        exact_detections(lvis)
        expected = evaluate(lvis)["bbox"]["AP"]
        ids = {3: 1, 7: 2, 18: 3}
        for records, key in (("categories", "id"), ("annotations", "category_id")):
            for record in lvis.content[records]:
                record[key] = ids[record[key]]
        for image in lvis.content["images"]:
            image["neg_category_ids"] = [1, 2, 3]
        save(lvis)
        MetadataCatalog.remove(lvis.name)
        MetadataCatalog.get(lvis.name).set(json_file=str(lvis.path))
        assert evaluate(lvis)["bbox"]["AP"] == expected

    def test_empty_predictions_give_nan(self, lvis):
        lvis.detections = {i: instances[:0] for i, instances in lvis.detections.items()}
        metrics = evaluate(lvis, tasks=("bbox",))["bbox"]
        assert all(math.isnan(value) for value in metrics.values())

    def test_what_is_not_finite_is_left_out_and_counted(self, lvis, caplog):
        expected = evaluate(lvis, tasks=("bbox",))["bbox"]
        instances = lvis.detections[1]
        bad = instances[:1]
        bad.pred_boxes = Boxes(torch.full((1, 4), math.nan))
        lvis.detections[1] = Instances.cat([instances, bad])
        assert evaluate(lvis, tasks=("bbox",))["bbox"] == expected
        assert "Left out 1 detections" in caplog.text

    def test_without_predictions_the_result_is_empty(self, lvis, caplog):
        assert LVISEvaluator(lvis.name, distributed=False).evaluate() == {}
        assert "Did not receive valid predictions" in caplog.text


class TestFiles:
    def test_results_are_written(self, lvis, tmp_path):
        out = tmp_path / "out"
        evaluate(lvis, output_dir=str(out))
        results = json.loads((out / "lvis_instances_results.json").read_text())
        assert len(results) == sum(map(len, lvis.detections.values()))
        assert {"segmentation", "bbox", "score", "category_id", "image_id"} == set(results[0])

    def test_recall_of_proposals_is_evaluated(self, lvis):
        evaluator = LVISEvaluator(lvis.name, distributed=False)
        evaluator.reset()
        exact_detections(lvis)
        for image_id, instances in lvis.detections.items():
            proposals = Instances((60, 80))
            proposals.proposal_boxes = instances.pred_boxes
            proposals.objectness_logits = instances.scores
            evaluator.process([{"image_id": image_id}], [{"proposals": proposals}])
        assert evaluator.evaluate()["box_proposals"]["AR@100"] == 100
