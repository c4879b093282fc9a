import contextlib
import io
import json
import math

import numpy as np
import pytest

from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.analysis import breakdowns, compare, diagnose, read_run, run_of
from detectron2.evaluation.analysis.score_curves import Matches, best_threshold, f1_curves


def evaluated(coco):
    evaluator = COCOEvaluator(coco.name, distributed=False)
    coco.feed(evaluator)
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator, evaluator.evaluate()


@pytest.fixture
def run(make_coco):
    return run_of(evaluated(make_coco())[0], "tiny")


def matches(scores, right, objects):
    """Detections of one image and class; `objects` are the scores that find each, or -1."""
    count, present = len(scores), len(objects)
    return Matches(
        np.arange(count), np.array(scores, dtype=float), np.ones(count, dtype=int),
        np.ones(count, dtype=int), np.array(right, dtype=bool), np.arange(present),
        np.ones(present, dtype=int), np.ones(present, dtype=int), np.array(objects, dtype=float),
    )  # fmt: skip


class TestScores:
    def test_best_threshold_can_be_checked_by_hand(self):
        # From 0.8 on: 2 of 2 right, 2 of 3 found, F1 = 4 / 5.
        found = best_threshold(matches([0.9, 0.8, 0.3], [True, True, False], [0.9, 0.8, -1]))
        assert found["threshold"] == 0.8
        assert found["F1"] == pytest.approx(80)
        assert found["precision"] == pytest.approx(100)
        assert found["recall"] == pytest.approx(100 * 2 / 3)

    def test_equal_scores_are_taken_together(self):
        found = best_threshold(matches([0.5, 0.5, 0.5], [True, False, True], [0.5, 0.5]))
        assert found["threshold"] == 0.5 and found["precision"] == pytest.approx(100 * 2 / 3)

    def test_nothing_right_and_nothing_there(self):
        assert best_threshold(matches([0.5], [False], [-1]))["F1"] == 0
        assert best_threshold(matches([], [], [-1]))["F1"] == 0
        assert math.isnan(best_threshold(matches([0.5], [False], []))["F1"])

    def test_curves_go_through_the_best_threshold(self):
        mine = matches([0.9, 0.8, 0.3], [True, True, False], [0.9, 0.8, -1])
        curves = f1_curves(mine)
        at = curves["threshold"].index(0.8)
        assert curves["F1"][at] == max(curves["F1"]) == pytest.approx(80)
        assert curves["recall at"][0] == pytest.approx(100 * 2 / 3)
        assert curves["precision at"][0] == pytest.approx(100 * 2 / 3)
        assert math.isnan(curves["precision at"][-1])  # nothing is taken


class TestDiagnosis:
    @pytest.mark.parametrize("task", ["bbox", "segm"])
    def test_metrics_are_those_of_the_evaluator(self, make_coco, task):
        evaluator, results = evaluated(make_coco())
        diagnosis = diagnose(run_of(evaluator, "tiny"), task)
        for name in ("AP", "AP50", "AP75", "APs", "APm"):
            assert diagnosis.metrics[name] == pytest.approx(
                results[task][name], abs=1e-9, nan_ok=True
            )
        for row in diagnosis.classes:
            expected = results[task][f"AP-{row['class']}"]
            assert row["AP"] == pytest.approx(expected, abs=1e-9)

    def test_counts_add_up(self, run):
        diagnosis = diagnose(run)
        assert sum(row["objects"] for row in diagnosis.classes) == len(run.objects)
        assert sum(row["right"] + row["missed"] for row in diagnosis.images) == len(run.objects)
        taken = diagnosis.matches.scores >= diagnosis.best["threshold"]
        assert sum(row["right"] + row["wrong"] for row in diagnosis.images) == taken.sum()
        assert sum(row["objects"] for row in diagnosis.sizes) == len(run.objects)
        assert sum(row["objects"] for row in diagnosis.aspects) == len(run.objects)
        f1 = [row["F1"] for row in diagnosis.images]
        assert f1 == sorted(f1)

    @pytest.mark.parametrize("task", ["bbox", "segm"])
    def test_ap_by_size_is_cocos_where_the_borders_are(self, run, monkeypatch, task):
        monkeypatch.setattr(breakdowns, "SIZES", (0, 32, 96, breakdowns._ENDLESS))
        diagnosis = diagnose(run, task)
        sizes = [row["AP"] for row in diagnosis.sizes]
        expected = [diagnosis.metrics[name] for name in ("APs", "APm", "APl")]
        np.testing.assert_allclose(sizes, expected, atol=1e-9)

    def test_perfect_detections_have_no_errors(self, make_coco):
        coco = make_coco(crowds=False)
        content = json.loads(coco.path.read_text())
        detections = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"],
             "score": 0.9}
            for a in content["annotations"]
        ]  # fmt: skip
        path = coco.path.with_name("perfect.json")
        path.write_text(json.dumps(detections))
        diagnosis = diagnose(read_run(path, coco.path))
        assert diagnosis.metrics["AP"] == pytest.approx(100)
        assert diagnosis.best["F1"] == pytest.approx(100)
        assert all(error["count"] == 0 for error in diagnosis.tide.values())
        matrix = np.array(diagnosis.confusion["matrix"])
        assert matrix.sum() == np.trace(matrix) == len(content["annotations"])

    def test_a_class_without_objects_has_no_numbers(self, make_coco):
        coco = make_coco()
        coco.content["annotations"] = [
            a for a in coco.content["annotations"] if a["category_id"] != 7
        ]
        coco.path.write_text(json.dumps(coco.content))
        row = diagnose(run_of(evaluated(coco)[0], "tiny")).classes[1]
        assert row["objects"] == 0 and math.isnan(row["AP"]) and math.isnan(row["best F1"])

    def test_without_detections_there_is_nothing_to_look_into(self, make_coco):
        coco = make_coco()
        coco.detections = {i: instances[:0] for i, instances in coco.detections.items()}
        assert run_of(evaluated(coco)[0], "tiny") is None

    def test_detections_of_unknown_images_are_left_out(self, make_coco):
        coco = make_coco()
        coco.detections[999] = coco.detections[1]
        run = run_of(evaluated(coco)[0], "tiny")
        assert 999 not in run.results.image_ids


class TestComparison:
    def test_a_run_is_like_itself(self, run):
        same = compare(run, run, "segm")
        assert all(row["difference"] in (0, None) or math.isnan(row["difference"])
                   for row in same.metrics)  # fmt: skip
        assert same.images == []

    def test_losses_come_first_and_are_beyond_chance(self, make_coco):
        coco = make_coco(images=30)
        good = run_of(evaluated(coco)[0], "good")
        for instances in coco.detections.values():
            instances.pred_boxes.tensor[:, 2:] += 6
        bad = run_of(evaluated(coco)[0], "bad")
        result = compare(good, bad)
        ap = result.metrics[0]
        assert ap["metric"] == "AP" and ap["difference"] < 0 and ap["beyond chance"] == "yes"
        assert ap["from"] <= ap["difference"] <= ap["to"] < 0
        differences = [row["difference"] for row in result.classes]
        assert differences == sorted(differences)

    def test_other_data_is_refused(self, make_coco):
        runs = [run_of(evaluated(make_coco(images=n))[0], str(n)) for n in (5, 6)]
        with pytest.raises(ValueError, match="different data: 5 images"):
            compare(*runs)


class TestFiles:
    @pytest.mark.parametrize(
        "content, problem",
        [("[{]", "is not a COCO result file"), ("{}", "is no list"), ('[{"score": 1}]', "without")],
    )
    def test_a_broken_result_file_is_named(self, make_coco, tmp_path, content, problem):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(ValueError, match=problem):
            read_run(tmp_path / "results.json", make_coco().path)

    def test_what_is_missing_is_said(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="summary.json"):
            read_run(tmp_path)
        with pytest.raises(ValueError, match="--data"):
            read_run(tmp_path / "results.json")
