import contextlib
import io
import itertools
import json
import math

import numpy as np
import pytest
import torch

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import (
    COCOeval_opt,
    COCOevalMaxDets,
    _evaluate_predictions_on_coco,
    instances_to_coco_json,
)
from detectron2.structures import Boxes, BoxMode, Instances

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def run(evaluator, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate(**options)


def pycocotools_stats(coco, task, img_ids=None, max_dets=None, sigmas=None, results=None):
    """What the reference says, from the JSON that the evaluator would write."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    index_to_id = {
        i: c for c, i in MetadataCatalog.get(coco.name).thing_dataset_id_to_contiguous_id.items()
    }
    if results is None:
        results = []
        for image_id, instances in coco.detections.items():
            for result in instances_to_coco_json(instances, image_id):
                result["category_id"] = index_to_id[result["category_id"]]
                if task == "segm":
                    del result["bbox"]
                results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(coco.path))
        evaluation = COCOeval(truth, truth.loadRes(results), task)
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        if max_dets is not None:
            evaluation.params.maxDets = max_dets
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_same(first, second):
    """Equal results, where NaN equals NaN."""
    assert first.keys() == second.keys()
    for task in first:
        assert first[task].keys() == second[task].keys()
        np.testing.assert_array_equal(list(first[task].values()), list(second[task].values()))


def percent(value):
    return value * 100 if value >= 0 else math.nan


class TestNumbers:
    @pytest.mark.parametrize("use_fast_impl", [True, False])
    def test_convention_boxes_and_masks_are_scored_as_pycocotools_does_to_the_last_bit(
        self, make_coco, use_fast_impl
    ):
        coco = make_coco()
        evaluator = COCOEvaluator(coco.name, distributed=False, use_fast_impl=use_fast_impl)
        coco.feed(evaluator)
        results = run(evaluator)
        assert list(results) == ["bbox", "segm"]
        for task in ("bbox", "segm"):
            expected = pycocotools_stats(coco, task).stats[:6]
            got = [results[task][name] for name in NAMES]
            np.testing.assert_array_equal(got, [percent(v) for v in expected])
            assert results[task]["AP"] > 1

    def test_precision_of_each_class_is_reported_in_percent(self, make_coco):
        coco = make_coco()
        evaluator = COCOEvaluator(coco.name, tasks=("bbox",), distributed=False)
        coco.feed(evaluator)
        results = run(evaluator)["bbox"]
        precision = pycocotools_stats(coco, "bbox").eval["precision"][:, :, :, 0, -1]
        for index, name in enumerate(("c3", "c7", "c18")):
            values = precision[:, :, index]
            expected = float(np.mean(values[values > -1])) * 100
            assert results[f"AP-{name}"] == pytest.approx(expected, abs=1e-12)

    def test_one_class_has_no_table_of_classes(self, make_coco):
        coco = make_coco(thing_classes=["object"])
        evaluator = COCOEvaluator(coco.name, tasks=("bbox",), distributed=False)
        coco.feed(evaluator)
        assert set(run(evaluator)["bbox"]) == set(NAMES)

    def test_a_subset_of_the_images_can_be_evaluated(self, make_coco):
        coco = make_coco()
        evaluator = COCOEvaluator(coco.name, tasks=("bbox",), distributed=False)
        coco.feed(evaluator)
        results = run(evaluator, img_ids=[1, 2, 5])["bbox"]
        assert results["AP"] == percent(pycocotools_stats(coco, "bbox", [1, 2, 5]).stats[0])

    @pytest.mark.parametrize("limit", [1, 4, 50])
    def test_quirk_a_limit_below_ten_detections_means_ten(self, make_coco, limit):
        # COCO sorts its three limits [1, 10, n] before it uses the largest.
        coco = make_coco()
        evaluator = COCOEvaluator(
            coco.name, tasks=("bbox",), distributed=False, max_dets_per_image=limit
        )
        coco.feed(evaluator)
        evaluation = pycocotools_stats(coco, "bbox", max_dets=[1, 10, limit])
        precision = evaluation.eval["precision"][:, :, :, 0, 2]
        expected = float(np.mean(precision[precision > -1])) * 100
        assert run(evaluator)["bbox"]["AP"] == pytest.approx(expected, abs=1e-12)

    def test_image_ids_may_be_text(self, make_coco):
        numbers = make_coco()
        texts = make_coco(image_id=lambda number: f"img-{number}")
        results = []
        for coco in (numbers, texts):
            evaluator = COCOEvaluator(coco.name, distributed=False)
            coco.feed(evaluator)
            results.append(run(evaluator))
        assert results[0].keys() == results[1].keys()
        np.testing.assert_array_equal(
            list(results[0]["segm"].values()), list(results[1]["segm"].values())
        )


class TestKeypoints:
    @pytest.fixture
    def coco(self, make_coco):
        coco = make_coco(masks=False, crowds=False)
        rng = np.random.default_rng(3)
        points = {}
        for annotation in coco.content["annotations"]:
            x, y, w, h = annotation["bbox"]
            keypoints = np.column_stack(
                [rng.uniform(x, x + w, 5), rng.uniform(y, y + h, 5), rng.integers(0, 3, 5)]
            )
            keypoints[keypoints[:, 2] == 0] = 0
            annotation["keypoints"] = keypoints.ravel().tolist()
            annotation["num_keypoints"] = int((keypoints[:, 2] > 0).sum())
            points.setdefault(annotation["image_id"], []).append(keypoints)
        coco.path.write_text(json.dumps(coco.content))
        for image_id, instances in coco.detections.items():
            truth = np.array(points[image_id])
            chosen = truth[rng.integers(len(truth), size=len(instances))]
            chosen = chosen + rng.normal(size=chosen.shape) * 2
            instances.pred_keypoints = torch.tensor(chosen, dtype=torch.float32)
        return coco

    def test_keypoints_are_scored_as_pycocotools_does_to_the_last_bit(self, coco):
        sigmas = [0.05, 0.1, 0.03, 0.2, 0.07]
        evaluator = COCOEvaluator(coco.name, distributed=False, kpt_oks_sigmas=sigmas)
        coco.feed(evaluator)
        results = run(evaluator)
        assert list(results) == ["bbox", "keypoints"]
        expected = pycocotools_stats(coco, "keypoints", sigmas=sigmas).stats[:5]
        got = [results["keypoints"][name] for name in ("AP", "AP50", "AP75", "APm", "APl")]
        np.testing.assert_array_equal(got, [percent(v) for v in expected])

    def test_the_number_of_sigmas_must_be_that_of_the_keypoints(self, coco):
        evaluator = COCOEvaluator(coco.name, distributed=False)  # COCO's 17
        coco.feed(evaluator)
        with pytest.raises(AssertionError, match="'annotated': 5, 'sigmas': 17"):
            run(evaluator)

    def test_convention_a_predicted_point_is_half_a_pixel_beyond_the_index(self, coco):
        instances = coco.detections[1]
        result = instances_to_coco_json(instances, 1)[0]
        x, y, score = instances.pred_keypoints[0, 0].tolist()
        assert result["keypoints"][:3] == [pytest.approx(x - 0.5), pytest.approx(y - 0.5), score]


class TestInput:
    def test_without_predictions_the_result_is_empty(self, make_coco, caplog):
        evaluator = COCOEvaluator(make_coco().name, distributed=False)
        evaluator.reset()
        assert evaluator.evaluate() == {}
        assert "Did not receive valid predictions" in caplog.text

    def test_empty_predictions_give_nan_for_every_metric(self, make_coco):
        coco = make_coco()
        coco.detections = {i: instances[:0] for i, instances in coco.detections.items()}
        evaluator = COCOEvaluator(coco.name, tasks=("bbox",), distributed=False)
        coco.feed(evaluator)
        results = run(evaluator)["bbox"]
        assert set(results) == set(NAMES)
        assert all(math.isnan(value) for value in results.values())

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("where", ["box", "score"])
    def test_what_is_not_finite_is_left_out_and_counted(self, make_coco, caplog, bad, where):
        coco = make_coco(masks=False)
        clean = COCOEvaluator(coco.name, distributed=False)
        coco.feed(clean)
        expected = run(clean)
        instances = coco.detections[1]
        extra = instances[:1]
        extra = Instances(
            extra.image_size,
            pred_boxes=extra.pred_boxes.clone(),
            scores=extra.scores.clone(),
            pred_classes=extra.pred_classes,
        )
        if where == "box":
            extra.pred_boxes.tensor[0, 2] = bad
        else:
            extra.scores[0] = bad
        coco.detections[1] = Instances.cat([instances, extra])
        evaluator = COCOEvaluator(coco.name, distributed=False)
        coco.feed(evaluator)
        got = run(evaluator)
        np.testing.assert_array_equal(list(got["bbox"].values()), list(expected["bbox"].values()))
        assert "Left out 1 detections" in caplog.text

    def test_boxes_outside_of_the_image_only_count_as_wrong(self, make_coco):
        coco = make_coco(masks=False)
        for instances in coco.detections.values():
            instances.pred_boxes.tensor += 1000
        evaluator = COCOEvaluator(coco.name, distributed=False)
        coco.feed(evaluator)
        assert run(evaluator)["bbox"]["AP"] == 0

    def test_a_class_that_the_dataset_does_not_have_is_refused(self, make_coco):
        coco = make_coco(masks=False)
        coco.detections[1].pred_classes[0] = 3
        evaluator = COCOEvaluator(coco.name, distributed=False)
        coco.feed(evaluator)
        with pytest.raises(AssertionError, match="predicts class 3, but the dataset has 3 classes"):
            run(evaluator)

    def test_masks_are_asked_for_where_there_are_none(self, make_coco):
        coco = make_coco(masks=False)
        evaluator = COCOEvaluator(coco.name, tasks=("segm",), distributed=False)
        coco.feed(evaluator)
        with pytest.raises(ValueError, match="no masks"):
            run(evaluator)

    def test_an_unknown_task_is_refused(self, make_coco):
        coco = make_coco()
        evaluator = COCOEvaluator(coco.name, tasks=("boxes",), distributed=False)
        coco.feed(evaluator)
        with pytest.raises(AssertionError, match="'boxes'.*'bbox', 'keypoints', 'segm'"):
            run(evaluator)

    def test_a_config_in_place_of_tasks_is_passed_over_with_a_warning(self, make_coco, caplog):
        evaluator = COCOEvaluator(make_coco().name, get_cfg(), distributed=False)
        assert evaluator._tasks is None
        assert "takes tasks, not a config" in caplog.text

    def test_a_broken_ground_truth_is_named(self, make_coco):
        coco = make_coco()
        coco.content["annotations"][0]["bbox"] = [1, 2, 3]
        coco.path.write_text(json.dumps(coco.content))
        with pytest.raises(ValueError, match=rf"{coco.path.name}.*bbox"):
            COCOEvaluator(coco.name, distributed=False)

    def test_without_annotations_results_are_written_but_not_scored(self, make_coco, tmp_path):
        coco = make_coco()
        del coco.content["annotations"]
        coco.path.write_text(json.dumps(coco.content))
        out = tmp_path / "out"
        evaluator = COCOEvaluator(coco.name, distributed=False, output_dir=str(out))
        coco.feed(evaluator)
        assert run(evaluator) == {}
        assert json.loads((out / "coco_instances_results.json").read_text())


class TestFiles:
    def test_the_files_are_the_predictions_and_coco_results(self, make_coco, tmp_path):
        coco = make_coco()
        out = tmp_path / "out"
        evaluator = COCOEvaluator(coco.name, distributed=False, output_dir=str(out))
        coco.feed(evaluator)
        run(evaluator)
        assert sorted(p.name for p in out.iterdir()) == [
            "coco_instances_results.json",
            "instances_predictions.pth",
        ]
        results = json.loads((out / "coco_instances_results.json").read_text())
        assert len(results) == sum(map(len, coco.detections.values()))
        assert {result["category_id"] for result in results} <= {3, 7, 18}
        # Plain lists and dictionaries: readable without running code.
        saved = torch.load(out / "instances_predictions.pth", weights_only=True)
        assert saved[0]["instances"] == instances_to_coco_json(coco.detections[1], 1)

    def test_a_dataset_without_a_coco_file_is_written_as_one(self, tmp_path):
        records = [
            {
                "file_name": "a.png",
                "image_id": "first",
                "height": 50,
                "width": 50,
                "annotations": [
                    {"bbox": [5, 5, 25, 25], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
                ],
            }
        ]
        name = f"from_catalog_{tmp_path.name}"
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(thing_classes=["a", "b"])
        try:
            with pytest.raises(ValueError, match="output_dir"):
                COCOEvaluator(name, distributed=False)
            evaluator = COCOEvaluator(name, distributed=False, output_dir=str(tmp_path))
            evaluator.reset()
            instances = Instances((50, 50))
            instances.pred_boxes = Boxes(torch.tensor([[5.0, 5, 25, 25]]))
            instances.scores = torch.tensor([0.9])
            instances.pred_classes = torch.tensor([1])
            evaluator.process(records, [{"instances": instances}])
            results = run(evaluator)["bbox"]
            assert results["AP"] == pytest.approx(100)
            assert results["AP-b"] == pytest.approx(100)
            assert math.isnan(results["AP-a"])
            assert (tmp_path / f"{name}_coco_format.json").exists()
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


class TestExtensionPoints:
    def test_convention_a_subclass_may_rewrite_eval_predictions(self, make_coco):
        """The way that Mask2Former and its relatives evaluate."""

        class Theirs(COCOEvaluator):
            def _eval_predictions(self, predictions, img_ids=None):
                coco_results = list(itertools.chain(*[x["instances"] for x in predictions]))
                tasks = self._tasks or self._tasks_from_predictions(coco_results)
                index_to_id = {
                    v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()
                }
                for result in coco_results:
                    result["category_id"] = index_to_id[result["category_id"]]
                for task in sorted(tasks):
                    coco_eval = _evaluate_predictions_on_coco(
                        self._coco_api,
                        coco_results,
                        task,
                        kpt_oks_sigmas=self._kpt_oks_sigmas,
                        use_fast_impl=self._use_fast_impl,
                        img_ids=img_ids,
                        max_dets_per_image=self._max_dets_per_image,
                    )
                    self._results[task] = self._derive_coco_results(
                        coco_eval, task, class_names=self._metadata.get("thing_classes")
                    )

        coco = make_coco()
        results = []
        for kind in (COCOEvaluator, Theirs):
            evaluator = kind(coco.name, distributed=False)
            coco.feed(evaluator)
            results.append(run(evaluator))
        assert_same(*results)

    def test_convention_ground_truth_is_indexed_as_in_pycocotools(self, make_coco):
        from pycocotools.coco import COCO

        coco = make_coco()
        api = COCOEvaluator(coco.name, distributed=False)._coco_api
        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCO(str(coco.path))
        for index in ("imgToAnns", "catToImgs"):
            assert dict(getattr(api, index)) == dict(getattr(reference, index))
        assert api.imgToAnns[-5] == []

    def test_a_subclass_may_store_plain_dictionaries(self, make_coco):
        class Plain(COCOEvaluator):
            def process(self, inputs, outputs):
                for record, output in zip(inputs, outputs):
                    results = instances_to_coco_json(output["instances"], record["image_id"])
                    self._predictions.append({"image_id": record["image_id"], "instances": results})

        coco = make_coco(image_id=lambda number: f"img-{number}")
        results = []
        for kind in (COCOEvaluator, Plain):
            evaluator = kind(coco.name, distributed=False)
            coco.feed(evaluator)
            results.append(run(evaluator))
        assert_same(*results)

    def test_another_class_may_do_the_scoring(self, make_coco):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        coco = make_coco()
        results = []
        for image_id, instances in coco.detections.items():
            results += instances_to_coco_json(instances, image_id)
        for result in results:
            result["category_id"] = (3, 7, 18)[result["category_id"]]
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(coco.path))
            ours = _evaluate_predictions_on_coco(truth, results, "bbox")
            theirs = pycocotools_stats(coco, "bbox")
            both = _evaluate_predictions_on_coco(truth, results, "bbox", cocoeval_fn=Counting)
        np.testing.assert_array_equal(ours.stats, theirs.stats)
        assert both.summaries == 1
        assert issubclass(COCOevalMaxDets, COCOeval_opt)
        assert not issubclass(COCOeval_opt, COCOeval)


class Counting(COCOeval_opt):
    summaries = 0

    def summarize(self):
        self.summaries += 1
        super().summarize()


class TestProposals:
    def feed(self, coco, evaluator):
        evaluator.reset()
        for image_id, instances in coco.detections.items():
            proposals = Instances(instances.image_size)
            proposals.proposal_boxes = instances.pred_boxes
            proposals.objectness_logits = instances.scores
            evaluator.process([{"image_id": image_id}], [{"proposals": proposals}])

    def test_perfect_proposals_have_full_recall(self, make_coco):
        coco = make_coco(masks=False)
        for image_id, instances in coco.detections.items():
            boxes = [
                BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
                for a in coco.content["annotations"]
                if a["image_id"] == image_id
            ]
            exact = Instances(instances.image_size)
            exact.pred_boxes = Boxes(torch.tensor(boxes))
            exact.scores = torch.rand(len(boxes))
            coco.detections[image_id] = exact
        evaluator = COCOEvaluator(coco.name, distributed=False)
        self.feed(coco, evaluator)
        recalls = evaluator.evaluate()["box_proposals"]
        assert list(recalls)[:4] == ["AR@100", "ARs@100", "ARm@100", "ARl@100"]
        assert recalls["AR@100"] == 100
        assert recalls["ARs@1000"] == 100
        assert math.isnan(recalls["ARl@100"])  # the images are smaller than large objects

    def test_recall_is_that_of_pairs_made_best_first(self, make_coco):
        coco = make_coco(images=1, masks=False, crowds=False)
        coco.content["annotations"] = [
            {"id": i + 1, "image_id": 1, "category_id": 3, "bbox": box, "area": 100, "iscrowd": 0}
            for i, box in enumerate([[0, 0, 10, 10], [0, 2, 10, 10]])
        ]
        coco.path.write_text(json.dumps(coco.content))
        # Both objects are best covered by the first proposal; the second object then takes the
        # other one, which overlaps it by 10 * 6 of 10 * 14.
        proposals = Instances((60, 80))
        proposals.pred_boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 6, 10, 16]]))
        proposals.scores = torch.tensor([0.5, 0.9])
        coco.detections = {1: proposals}
        evaluator = COCOEvaluator(coco.name, distributed=False)
        self.feed(coco, evaluator)
        # The first object is found at all ten thresholds, the second at none (0.43).
        assert evaluator.evaluate()["box_proposals"]["AR@100"] == pytest.approx(50)

    def test_proposals_are_written_as_a_proposal_file(self, make_coco, tmp_path):
        from detectron2.data.build import load_proposals_into_dataset
        from detectron2.data.datasets.coco import load_coco_json

        coco = make_coco(masks=False)
        evaluator = COCOEvaluator(coco.name, distributed=False, output_dir=str(tmp_path))
        self.feed(coco, evaluator)
        evaluator.evaluate()
        records = load_coco_json(str(coco.path), "")
        records = load_proposals_into_dataset(records, str(tmp_path / "box_proposals.pkl"))
        assert len(records[0]["proposal_boxes"]) == len(coco.detections[1])
