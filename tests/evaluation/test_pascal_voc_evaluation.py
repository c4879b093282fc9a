import numpy as np
import pytest
import torch

from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_ap, voc_eval
from detectron2.structures import Boxes, Instances

OBJECT = (
    "<object><name>{}</name><pose>Left</pose><truncated>1</truncated><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


@pytest.fixture
def voc(tmp_path):
    """Two images: a cat and a difficult cat, and a dog; boxes of 10 x 10 pixels."""
    objects = {
        "one": [("cat", 0, 11, 11, 20, 20), ("cat", 1, 51, 51, 60, 60)],
        "two": [("dog", 0, 1, 1, 10, 10)],
    }
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for image, rows in objects.items():
        text = "".join(OBJECT.format(*row) for row in rows)
        (tmp_path / "Annotations" / f"{image}.xml").write_text(f"<annotation>{text}</annotation>")
    (tmp_path / "ImageSets/Main/val.txt").write_text("one\ntwo\n")
    name = f"voc_{tmp_path.name}"
    MetadataCatalog.get(name).set(
        dirname=str(tmp_path), split="val", year=2012, thing_classes=["cat", "dog"]
    )
    yield name
    MetadataCatalog.remove(name)


def predict(rows):
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(torch.tensor([row[0] for row in rows]).reshape(-1, 4))
    instances.scores = torch.tensor([row[1] for row in rows])
    instances.pred_classes = torch.tensor([row[2] for row in rows], dtype=torch.long)
    return instances


def evaluate(name, one, two):
    evaluator = PascalVOCDetectionEvaluator(name)
    for image, rows in (("one", one), ("two", two)):
        evaluator.process([{"image_id": image}], [{"instances": predict(rows)}])
    return evaluator.evaluate()["bbox"]


CAT = ([10.0, 10, 20, 20], 0.9, 0)  # counted from 0, without the last pixel
DOG = ([0.0, 0, 10, 10], 0.8, 1)


class TestEvaluator:
    def test_perfect_detections_score_100(self, voc):
        assert evaluate(voc, [CAT], [DOG]) == {"AP": 100, "AP50": 100, "AP75": 100}

    def test_what_is_missed_scores_nothing(self, voc):
        assert evaluate(voc, [CAT], [])["AP50"] == 50

    def test_difficult_objects_count_neither_way(self, voc):
        difficult = ([50.0, 50, 60, 60], 0.95, 0)
        assert evaluate(voc, [CAT, difficult], [DOG])["AP"] == 100

    def test_a_second_detection_of_an_object_is_wrong(self, voc):
        again = ([10.0, 10, 20, 20], 0.95, 0)
        metrics = evaluate(voc, [CAT, again, ([70.0, 70, 80, 80], 0.99, 0)], [DOG])
        # The cat is found second of three: its precision is 1/2.
        assert metrics["AP50"] == pytest.approx(100 * (0.5 + 1) / 2)

    def test_overlap_must_exceed_the_threshold(self, voc):
        # 5 of 10 + 5 pixels wide: a third of the union; 8 of 12: two thirds.
        assert evaluate(voc, [([15.0, 10, 25, 20], 0.9, 0)], [DOG])["AP50"] == 50
        shifted = evaluate(voc, [([12.0, 10, 22, 20], 0.9, 0)], [DOG])
        assert shifted["AP50"] == 100
        assert shifted["AP75"] == 50

    def test_without_any_detection_the_score_is_zero(self, voc):
        assert evaluate(voc, [], []) == {"AP": 0, "AP50": 0, "AP75": 0}

    def test_a_class_that_the_split_does_not_have_is_no_part_of_the_mean(self, voc):
        MetadataCatalog.get(voc).thing_classes.append("bird")
        assert evaluate(voc, [CAT], [DOG])["AP"] == 100

    def test_a_detection_that_is_not_finite_is_left_out(self, voc):
        bad = ([float("nan"), 0, 10, 10], 0.99, 0)
        assert evaluate(voc, [CAT, bad], [DOG])["AP"] == 100

    def test_other_years_are_refused(self, voc):
        data = MetadataCatalog.get(voc).as_dict()
        MetadataCatalog.remove(voc)
        MetadataCatalog.get(voc).set(**{**data, "year": 2020})
        with pytest.raises(AssertionError, match="2007 or 2012, not 2020"):
            PascalVOCDetectionEvaluator(voc)


class TestFunctions:
    def test_annotations_are_read_as_lists(self, voc, tmp_path):
        first = parse_rec(str(tmp_path / "Annotations/one.xml"))[0]
        assert first == {
            "name": "cat",
            "pose": "Left",
            "truncated": 1,
            "difficult": 0,
            "bbox": [11, 11, 20, 20],
        }

    def test_an_object_without_box_is_named_with_its_file(self, tmp_path):
        path = tmp_path / "bad.xml"
        path.write_text("<annotation><object><name>x</name></object></annotation>")
        with pytest.raises(ValueError, match=r"bad\.xml.*bndbox"):
            parse_rec(str(path))

    def test_result_files_are_evaluated_as_they_are(self, voc, tmp_path):
        (tmp_path / "results_cat.txt").write_text("one 0.9 11 11 20 20\ntwo 0.95 1 1 10 10\n")
        recall, precision, average = voc_eval(
            str(tmp_path / "results_{}.txt"),
            str(tmp_path / "Annotations" / "{}.xml"),
            str(tmp_path / "ImageSets/Main/val.txt"),
            "cat",
        )
        np.testing.assert_array_equal(recall, [0, 1])
        np.testing.assert_array_equal(precision, [0, 0.5])
        assert average == 0.5

    def test_the_exact_area_uses_the_best_precision_at_each_recall_or_beyond(self):
        recall, precision = np.array([0.25, 0.25, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3, 0.5])
        assert voc_ap(recall, precision) == pytest.approx(0.25 * 1 + 0.25 * 2 / 3 + 0.5 * 0.5)

    def test_the_2007_metric_is_a_mean_over_eleven_recalls(self):
        # Precision 1 up to recall 0.55: at 0, 0.1, ... 0.5, six of eleven.
        assert voc_ap([0.55], [1.0], use_07_metric=True) == pytest.approx(6 / 11)

    @pytest.mark.parametrize("old", [True, False])
    def test_no_detection_has_no_area(self, old):
        assert voc_ap(np.zeros(0), np.zeros(0), use_07_metric=old) == 0
