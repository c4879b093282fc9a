import contextlib
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import RotatedCOCOEvaluator
from detectron2.evaluation.rotated_coco_evaluation import RotatedCOCOeval
from detectron2.structures import BoxMode, Instances, RotatedBoxes, pairwise_iou_rotated

TRUTH = [[50.0, 40.0, 40.0, 20.0, 30.0], [100.0, 90.0, 50.0, 30.0, -75.0]]


@pytest.fixture
def dataset(tmp_path):
    records = [
        {
            "file_name": "a.png",
            "image_id": 3,
            "height": 150,
            "width": 150,
            "annotations": [
                {"bbox": box, "bbox_mode": BoxMode.XYWHA_ABS, "category_id": i}
                for i, box in enumerate(TRUTH)
            ],
        }
    ]
    name = f"rotated_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["a", "b"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def evaluate(name, folder, boxes, scores=(0.9, 0.8), classes=(0, 1)):
    instances = Instances((150, 150))
    instances.pred_boxes = RotatedBoxes(torch.tensor(boxes).reshape(-1, 5))
    instances.scores = torch.tensor(scores[: len(boxes)])
    instances.pred_classes = torch.tensor(classes[: len(boxes)], dtype=torch.long)
    evaluator = RotatedCOCOEvaluator(name, distributed=False, output_dir=str(folder))
    evaluator.reset()
    evaluator.process([{"image_id": 3}], [{"instances": instances}])
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()["bbox"]


class TestEvaluator:
    def test_perfect_boxes_score_100(self, dataset, tmp_path):
        metrics = evaluate(dataset, tmp_path, TRUTH)
        assert metrics["AP"] == pytest.approx(100)
        assert metrics["AP-b"] == pytest.approx(100)

    def test_half_a_turn_changes_nothing(self, dataset, tmp_path):
        turned = [[*box[:4], box[4] + 180] for box in TRUTH]
        assert evaluate(dataset, tmp_path, turned)["AP"] == pytest.approx(100)

    def test_the_direction_of_the_angle_counts(self, dataset, tmp_path):
        mirrored = [[*box[:4], -box[4]] for box in TRUTH]
        assert evaluate(dataset, tmp_path, mirrored)["AP75"] < 60

    @pytest.mark.parametrize("degrees", [5.0, 12.0, 20.0, 40.0])
    def test_thresholds_are_passed_as_the_overlap_of_our_own_op_says(
        self, dataset, tmp_path, degrees
    ):
        turned = [[*box[:4], box[4] + degrees] for box in TRUTH]
        overlap = pairwise_iou_rotated(
            RotatedBoxes(torch.tensor(turned)), RotatedBoxes(torch.tensor(TRUTH))
        ).diagonal()
        passed = (overlap[:, None].numpy() >= np.linspace(0.5, 0.95, 10)).mean()
        assert evaluate(dataset, tmp_path, turned)["AP"] == pytest.approx(100 * passed)

    def test_what_is_not_finite_is_left_out(self, dataset, tmp_path):
        boxes = [TRUTH[0], [math.nan, 1, 1, 1, 1]]
        metrics = evaluate(dataset, tmp_path, boxes, classes=(0, 1))
        assert metrics["AP-a"] == pytest.approx(100)
        assert metrics["AP-b"] == 0

    def test_no_detections_give_nan(self, dataset, tmp_path):
        assert math.isnan(evaluate(dataset, tmp_path, [])["AP"])

    def test_results_have_five_numbers(self, dataset, tmp_path):
        import json

        evaluate(dataset, tmp_path, TRUTH)
        results = json.loads((tmp_path / "coco_instances_results.json").read_text())
        assert [result["bbox"] for result in results] == TRUTH

    def test_only_boxes_are_evaluated(self, dataset, tmp_path):
        evaluator = RotatedCOCOEvaluator(
            dataset, tasks=("segm",), distributed=False, output_dir=str(tmp_path)
        )
        evaluator.reset()
        instances = Instances((150, 150))
        instances.pred_boxes = RotatedBoxes(torch.tensor(TRUTH))
        instances.scores, instances.pred_classes = torch.ones(2), torch.tensor([0, 1])
        evaluator.process([{"image_id": 3}], [{"instances": instances}])
        with pytest.raises(AssertionError, match="'bbox' only, not for 'segm'"):
            evaluator.evaluate()


class TestRotatedCOCOeval:
    @pytest.fixture
    def evaluation(self):
        """Datasets as another library holds them, with five-number boxes, one of them upright."""
        content = {
            "images": [{"id": 1, "height": 150, "width": 150}],
            "categories": [{"id": 1, "name": "a"}],
        }
        shared = {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": 800.0}
        truth = [{"id": 1, "bbox": TRUTH[0], **shared}]
        found = [
            {"id": 1, "bbox": [30.0, 30.0, 40.0, 20.0], "score": 0.5, **shared},
            {"id": 2, "bbox": TRUTH[0], "score": 0.9, **shared},
        ]
        datasets = []
        for annotations in (truth, found):
            datasets.append(
                SimpleNamespace(
                    dataset={**content, "annotations": annotations},
                    getImgIds=lambda: [1],
                    getCatIds=lambda: [1],
                    getAnnIds=lambda annotations=annotations, **_: [a["id"] for a in annotations],
                    loadAnns=lambda ids, annotations=annotations: annotations,
                )
            )
        return RotatedCOCOeval(*datasets, "bbox")

    def test_overlaps_are_listed_by_falling_score(self, evaluation):
        upright = RotatedBoxes(torch.tensor([[50.0, 40.0, 40.0, 20.0, 0.0]]))
        overlap = pairwise_iou_rotated(upright, RotatedBoxes(torch.tensor(TRUTH[:1])))
        got = evaluation.computeIoU(1, 1)
        assert got.shape == (2, 1)
        assert got[0, 0] == pytest.approx(1.0, abs=1e-4)
        assert got[1, 0] == pytest.approx(float(overlap), abs=1e-4)

    def test_datasets_of_another_library_are_evaluated(self, evaluation):
        evaluation.evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)

    def test_crowds_are_refused(self, evaluation):
        with pytest.raises(AssertionError, match="crowd"):
            evaluation.compute_iou_dt_gt([TRUTH[0]], [TRUTH[0]], [1])

    def test_lists_of_five_numbers_are_rotated(self):
        assert RotatedCOCOeval.is_rotated(TRUTH)
        assert RotatedCOCOeval.is_rotated(np.array(TRUTH))
        assert not RotatedCOCOeval.is_rotated([[1, 2, 3, 4]])
        assert not RotatedCOCOeval.is_rotated([])

    def test_upright_boxes_become_rotated_ones_but_not_back(self):
        rotated = RotatedCOCOeval.boxlist_to_tensor([[10, 20, 4, 6]], 5)
        assert rotated.tolist() == [[12, 23, 4, 6, 0]]
        assert RotatedCOCOeval.boxlist_to_tensor([], 5).shape == (0, 5)
        with pytest.raises(ValueError, match="5 numbers cannot be written with 4"):
            RotatedCOCOeval.boxlist_to_tensor(TRUTH, 4)
