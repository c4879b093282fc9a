"""Detections that are matched in chunks give the numbers of all at once."""

import contextlib
import io
import json
import random

import numpy as np
import pytest
import torch

from detectron2.evaluation import COCOEvaluator, LVISEvaluator, coco_stream, spool
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco
from detectron2.evaluation.coco_results import CocoResults
from detectron2.evaluation.detection_limits import best_of_each_category, highest_of_each_image
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.evaluation.lvis_evaluation import _evaluate_predictions_on_lvis
from detectron2.evaluation.result_stream import ResultStream
from detectron2.structures import Boxes, Instances


@pytest.fixture(params=[1, 7, 10_000, "all"])
def chunk(request, monkeypatch):
    """Detections to a chunk; predictions are read from disk."""
    if request.param != "all":
        monkeypatch.setattr(coco_stream, "_CHUNK_DETECTIONS", request.param)
        monkeypatch.setattr(coco_stream, "_AT_ONCE_DETECTIONS", 0)
    monkeypatch.setattr(spool, "_CACHE_BYTES", 0)
    return request.param


def stream_of(coco, evaluator=COCOEvaluator):
    made = evaluator(coco.name, distributed=False)
    coco.feed(made)
    stream = ResultStream.over(made._predictions)
    if evaluator is LVISEvaluator:
        return made, stream.mapped(made._to_dataset_ids)
    return made, made._to_dataset_ids(stream)


def run(evaluator):
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("max_dets", [None, [1, 10, 4]])
def test_convention_chunks_change_no_bit(make_coco, chunk, task, max_dets):
    evaluator, stream = stream_of(make_coco())
    options = {"max_dets_per_image": max_dets}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        streamed = _evaluate_predictions_on_coco(evaluator._coco_api, stream, task, **options)
    with contextlib.redirect_stdout(io.StringIO()) as expected_print:
        at_once = _evaluate_predictions_on_coco(
            evaluator._coco_api, stream.joined(), task, **options
        )
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(streamed.eval[name], at_once.eval[name])
    np.testing.assert_array_equal(streamed.stats, at_once.stats)
    assert printed.getvalue() == expected_print.getvalue()
    assert len(streamed.evalImgs) == len(at_once.evalImgs) > 0


@pytest.mark.parametrize("tasks", [("bbox", "segm", "bbox"), ("segm", "bbox", "segm")])
def test_convention_tasks_in_any_order_give_the_same_numbers(make_coco, tasks):
    coco = make_coco()
    evaluator, shared = stream_of(coco)
    for task in tasks:
        fresh = stream_of(coco)[1]
        with contextlib.redirect_stdout(io.StringIO()):
            one, other = (
                _evaluate_predictions_on_coco(evaluator._coco_api, stream, task)
                for stream in (shared, fresh)
            )
        np.testing.assert_array_equal(one.stats, other.stats)
        assert one.stats[3] != one.stats[4]  # areas matter


def test_a_class_that_does_the_scoring_gets_all_detections(make_coco):
    evaluator, stream = stream_of(make_coco())
    with contextlib.redirect_stdout(io.StringIO()):
        own = _evaluate_predictions_on_coco(
            evaluator._coco_api, stream, "segm", cocoeval_fn=COCOeval_opt
        )
    assert type(own) is COCOeval_opt and len(own.cocoDt.getAnnIds()) == len(stream)


def test_convention_order_of_images_changes_nothing(make_coco):
    coco = make_coco()
    expected = json.dumps(run(stream_of(coco)[0]))
    for seed in range(3):
        items = list(coco.detections.items())
        random.Random(seed).shuffle(items)
        coco.detections = dict(items)
        assert json.dumps(run(stream_of(coco)[0])) == expected


def exact(coco):
    """Detections that are the ground truth, or none of it."""
    from detectron2.structures import PolygonMasks

    for image_id in coco.detections:
        mine = [a for a in coco.content["annotations"] if a["image_id"] == image_id]
        instances = Instances((60, 80))
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in mine)]
        instances.pred_boxes = Boxes(torch.tensor(corners))
        instances.scores = torch.linspace(0.9, 0.5, len(mine))
        instances.pred_classes = torch.tensor([(3, 7, 18).index(a["category_id"]) for a in mine])
        polygons = PolygonMasks([a["segmentation"] for a in mine])
        from detectron2.structures import BitMasks

        instances.pred_masks = BitMasks.from_polygon_masks(polygons, 60, 80).tensor
        coco.detections[image_id] = instances
    return coco


def test_convention_perfect_predictions_score_100(make_coco):
    results = run(stream_of(exact(make_coco(crowds=False)))[0])
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100, abs=1e-9)
        assert results[task]["AP75"] == pytest.approx(100, abs=1e-9)


def test_convention_predictions_without_a_match_score_0(make_coco):
    coco = exact(make_coco(crowds=False))
    for instances in coco.detections.values():
        instances.pred_boxes.tensor += 1000
        instances.pred_masks[:] = False
    results = run(stream_of(coco)[0])
    assert results["bbox"]["AP"] == results["segm"]["AP"] == 0


def test_images_that_the_ground_truth_lacks_are_left_out_and_counted(make_coco, caplog):
    coco = make_coco()
    expected = json.dumps(run(stream_of(coco)[0]))
    coco.detections[999] = coco.detections[1]
    assert json.dumps(run(stream_of(coco)[0])) == expected
    assert "1 images that the ground truth lacks, such as 999" in caplog.text


def test_text_ids_that_the_ground_truth_lacks_are_left_out(make_coco, caplog):
    coco = make_coco(image_id=lambda number: f"image {number}")
    coco.detections["stranger"] = coco.detections["image 1"]
    assert run(stream_of(coco)[0])["bbox"]["AP"] > 0
    assert "the ground truth lacks" in caplog.text


def test_categories_that_the_ground_truth_lacks_are_left_out_and_counted(make_coco, caplog):
    coco = make_coco(images=3)
    evaluator, stream = stream_of(coco)
    odd = stream.mapped(lambda part: part.replaced(category_ids=part.category_ids + 1000))
    with contextlib.redirect_stdout(io.StringIO()):
        result = _evaluate_predictions_on_coco(evaluator._coco_api, odd, "bbox")
    assert result.stats[0] == 0
    assert f"Left out {len(stream)} detections of categories" in caplog.text


class TestStream:
    def test_it_reads_like_the_list_of_all_detections(self, make_coco):
        _, stream = stream_of(make_coco(images=4))
        plain = list(stream)
        assert len(stream) == len(plain) and stream[3] == plain[3] and stream[-1] == plain[-1]
        assert stream[2:5] == plain[2:5]
        with pytest.raises(IndexError):
            stream[len(plain)]

    def test_a_filtered_stream_reads_like_the_filtered_list(self, make_coco):
        _, stream = stream_of(make_coco(images=4))
        plain = list(stream)
        kept = np.arange(len(plain)) % 3 != 1
        filtered = stream.filtered(kept)
        expected = [item for item, keep in zip(plain, kept) if keep]
        assert list(filtered) == expected and len(filtered) == len(expected)
        assert [filtered[i] for i in range(len(expected))] == expected

    def test_images_without_detections_do_not_hide_masks(self, make_coco):
        coco = make_coco()
        coco.detections[1] = coco.detections[1][:0]
        coco.detections[1].remove("pred_masks")
        assert set(run(stream_of(coco)[0])) == {"bbox", "segm"}


class TestLimits:
    def test_highest_scores_of_each_image_are_kept_in_order(self):
        parts = [
            CocoResults.of_image(i, np.zeros(4), np.array(s), np.zeros((4, 4)))
            for i, s in ((2, [0.5, 0.9, 0.5, 0.1]), (1, [0.2, 0.2, 0.2, 0.3]))
        ]
        kept = highest_of_each_image(CocoResults.concatenate(parts), 2)
        assert kept.image_ids.tolist() == [2, 2, 1, 1]
        assert kept.scores.tolist() == [0.5, 0.9, 0.2, 0.3]

    def test_highest_scores_of_each_category_are_kept_over_all_images(self, make_coco):
        _, stream = stream_of(make_coco())
        best = best_of_each_category(stream, limit=5)
        for category in (3, 7, 18):
            all_scores = sorted(r["score"] for r in stream if r["category_id"] == category)
            kept = sorted(r["score"] for r in best if r["category_id"] == category)
            assert kept == all_scores[-5:]


class TestLvis:
    @pytest.fixture
    def lvis(self, make_coco):
        coco = make_coco(crowds=False)
        for image in coco.content["images"]:
            image["neg_category_ids"] = [3, 18] if image["id"] % 2 else [7]
            image["not_exhaustive_category_ids"] = [7] if image["id"] % 3 else []
        for category, frequency in zip(coco.content["categories"], "rcf"):
            category["frequency"] = frequency
        coco.path.write_text(json.dumps(coco.content))
        return coco

    @pytest.mark.parametrize("limit", [3, 300])
    @pytest.mark.parametrize("task", ["bbox", "segm"])
    def test_convention_chunks_change_no_bit(self, lvis, chunk, task, limit):
        evaluator, stream = stream_of(lvis, LVISEvaluator)
        with contextlib.redirect_stdout(io.StringIO()):
            streamed, at_once = (
                _evaluate_predictions_on_lvis(evaluator._lvis_api, results, task, limit)
                for results in (stream, stream.joined())
            )
        assert json.dumps(streamed) == json.dumps(at_once)

    def test_fixed_ap_limits_categories_in_place_of_images(self, lvis, monkeypatch):
        evaluator = LVISEvaluator(lvis.name, distributed=False, max_dets_per_image=1, fixed_ap=True)
        lvis.feed(evaluator)
        results = run(evaluator)
        assert list(results) == ["bbox", "bbox_fixed", "segm", "segm_fixed"]
        unlimited = LVISEvaluator(lvis.name, distributed=False, max_dets_per_image=-1)
        lvis.feed(unlimited)
        expected = run(unlimited)
        for task in ("bbox", "segm"):  # no category has 10,000 detections
            assert results[f"{task}_fixed"] == expected[task] != results[task]

    def test_fixed_ap_of_few_detections_per_category_is_lower(self, lvis, monkeypatch):
        from detectron2.evaluation import lvis_evaluation

        evaluator = LVISEvaluator(lvis.name, distributed=False, fixed_ap=True)
        lvis.feed(evaluator)
        before = run(evaluator)["bbox_fixed"]["AP"]
        monkeypatch.setattr(
            lvis_evaluation, "best_of_each_category", lambda r: best_of_each_category(r, 2)
        )
        lvis.feed(evaluator)
        assert run(evaluator)["bbox_fixed"]["AP"] < before
