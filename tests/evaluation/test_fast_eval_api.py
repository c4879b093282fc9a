import contextlib
import copy
import io
import json

import numpy as np
import pytest

from detectron2.evaluation.coco_evaluation import COCOevalMaxDets, instances_to_coco_json
from detectron2.evaluation.fast_eval_api import COCOeval_opt


@pytest.fixture
def data(make_coco):
    """Ground truth dictionary and results with the category ids of the dataset."""
    coco = make_coco()
    results = []
    for image_id, instances in coco.detections.items():
        results += instances_to_coco_json(instances, image_id)
    for result in results:
        result["category_id"] = (3, 7, 18)[result["category_id"]]
    return coco.content, results


def change_nothing(params):
    pass


def change_in_place(params):
    params.maxDets[2] = 50
    params.areaRng[0][1] = 400
    params.iouThrs[0] = 0.3


def change_everything(params):
    params.imgIds = [4, 2, 2, 9]
    params.catIds = [18, 3]
    params.iouThrs = np.array([0.2, 0.5, 0.75])
    params.recThrs = np.linspace(0, 1, 11)
    params.maxDets = [1, 2, 100]
    params.areaRng = [[0, 1e10], [0, 300], [300, 900], [900, 1e10]]


def merge_categories(params):
    params.useCats = 0


class TestAgainstPycocotools:
    @pytest.mark.parametrize("task", ["bbox", "segm"])
    @pytest.mark.parametrize(
        "change", [change_nothing, change_in_place, change_everything, merge_categories]
    )
    @pytest.mark.parametrize("library", ["hotcoco", "pycocotools"])
    def test_curves_and_summary_are_the_same_bits(self, data, task, change, library):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        content, results = data
        if task == "segm":
            results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        evaluations, printed = [], []
        for kind in (COCOeval_opt, COCOeval):
            with contextlib.redirect_stdout(io.StringIO()):
                if kind is COCOeval_opt and library == "hotcoco":
                    from hotcoco import COCO as Dataset

                    truth = Dataset(content)
                else:
                    truth = COCO()
                    truth.dataset = copy.deepcopy(content)
                    truth.createIndex()
                detections = truth.loadRes(copy.deepcopy(results))
                evaluation = kind(truth, detections, iouType=task)
                change(evaluation.params)
                evaluation.evaluate()
                evaluation.accumulate()
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                evaluation.summarize()
            evaluations.append(evaluation)
            printed.append(stream.getvalue().split())
        ours, theirs = evaluations
        for key in ("precision", "recall", "scores"):
            np.testing.assert_array_equal(ours.eval[key], theirs.eval[key])
        assert ours.eval["counts"] == theirs.eval["counts"]
        np.testing.assert_array_equal(ours.stats, theirs.stats)
        assert printed[0] == printed[1]

    def test_a_dataset_without_objects_scores_minus_one(self, data):
        from hotcoco import COCO

        content, results = data
        truth = COCO({**content, "annotations": []})
        evaluation = COCOeval_opt(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.summarize()
        assert (evaluation.stats == -1).all()


class TestMissingFields:
    """hotcoco guesses what an annotation lacks; the wrong score must not go unnoticed."""

    SHARED = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 30, 30], "area": 900}
    SHAPE = {"segmentation": [[9, 9, 39, 9, 39, 39, 9, 39]], "keypoints": [12, 12, 2] * 17}
    TRUTH = {**SHARED, **SHAPE, "iscrowd": 0, "num_keypoints": 17}
    FOUND = {**SHARED, **SHAPE, "score": 0.9}

    @pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
    @pytest.mark.parametrize(
        ("side", "field"),
        [(0, key) for key in TRUTH if key != "id"] + [(1, key) for key in FOUND if key != "id"],
    )
    def test_convention_errors_are_those_of_pycocotools(self, task, side, field):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        annotations = [dict(self.TRUTH), dict(self.FOUND)]
        del annotations[side][field]
        outcomes = []
        for kind in (COCOeval, COCOeval_opt):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    datasets = [self.dataset(COCO(), annotation) for annotation in annotations]
                    evaluation = kind(*datasets, task)
                    evaluation.evaluate()
                    evaluation.accumulate()
                    evaluation.summarize()
                outcomes.append(float(evaluation.stats[0]))
            except KeyError:
                outcomes.append("KeyError")
        assert outcomes[0] == outcomes[1]

    def dataset(self, coco, annotation):
        coco.dataset = {
            "images": [{"id": 1, "width": 100, "height": 80}],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [dict(annotation)],
        }
        coco.createIndex()
        return coco


class TestSteps:
    @pytest.fixture
    def evaluation(self, data):
        from hotcoco import COCO

        truth = COCO(data[0])
        return COCOeval_opt(truth, truth.loadRes(data[1]), "bbox")

    def test_steps_must_come_in_order(self, evaluation):
        with pytest.raises(RuntimeError, match="evaluate"):
            evaluation.accumulate()
        with pytest.raises(RuntimeError, match="accumulate"):
            evaluation.summarize()

    def test_matches_of_each_image_can_be_looked_at(self, evaluation):
        assert evaluation.evalImgs == []
        evaluation.evaluate()
        found = [match for match in evaluation.evalImgs if match is not None]
        assert {"image_id", "category_id", "dtMatches", "gtMatches"} <= set(found[0])

    def test_datasets_may_be_given_after_construction(self, evaluation):
        late = COCOeval_opt(iouType="bbox")
        late.cocoGt, late.cocoDt = evaluation.cocoGt, evaluation.cocoDt
        late.params.imgIds = evaluation.params.imgIds
        late.params.catIds = evaluation.params.catIds
        for each in (late, evaluation):
            each.evaluate()
            each.accumulate()
        np.testing.assert_array_equal(late.eval["precision"], evaluation.eval["precision"])

    @pytest.mark.parametrize("limit", [20, 300])
    def test_quirk_the_first_row_is_about_100_detections(self, evaluation, limit):
        other = COCOevalMaxDets(evaluation.cocoGt, evaluation.cocoDt, "bbox")
        for each in (evaluation, other):
            each.params.maxDets = [1, 10, limit]
            each.evaluate()
            each.accumulate()
            with contextlib.redirect_stdout(io.StringIO()):
                each.summarize()
        assert evaluation.stats[0] == -1
        assert other.stats[0] > 0
        np.testing.assert_array_equal(evaluation.stats[1:], other.stats[1:])


def test_results_survive_a_json_file(data, tmp_path):
    from hotcoco import COCO

    content, results = data
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    truth = COCO(content)
    stats = []
    for given in (results, str(path)):
        evaluation = COCOeval_opt(truth, truth.loadRes(given), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.summarize()
        stats.append(evaluation.stats)
    np.testing.assert_array_equal(*stats)
