import json

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator

HEIGHT, WIDTH = 20, 30
TRUTH = np.ones((HEIGHT, WIDTH), dtype=np.int64)
TRUTH[:10, :15] = 2  # a person
TRUTH[:10, 15:] = 70000  # another


def save_ids(ids, path):
    digits = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    Image.fromarray(digits.astype(np.uint8)).save(path)


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "truth").mkdir()
    save_ids(TRUTH, tmp_path / "truth" / "a.png")
    segments = [
        {"id": 1, "category_id": 90, "area": 300, "iscrowd": 0},
        {"id": 2, "category_id": 5, "area": 150, "iscrowd": 0},
        {"id": 70000, "category_id": 5, "area": 150, "iscrowd": 0},
    ]
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": segments}],
        "categories": [
            {"id": 5, "name": "person", "isthing": 1},
            {"id": 90, "name": "grass", "isthing": 0},
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    name = f"panoptic_{tmp_path.name}"
    MetadataCatalog.get(name).set(
        panoptic_json=str(tmp_path / "truth.json"),
        panoptic_root=str(tmp_path / "truth"),
        thing_dataset_id_to_contiguous_id={5: 0},
        stuff_dataset_id_to_contiguous_id={90: 1},
        label_divisor=1000,
    )
    yield name
    MetadataCatalog.remove(name)


RECORD = {"image_id": 7, "file_name": "folder/a.jpg"}
INFOS = [
    {"id": 1, "category_id": 1, "isthing": False},
    {"id": 2, "category_id": 0, "isthing": True},
    {"id": 3, "category_id": 0, "isthing": True},
]


def evaluate(name, ids, infos, **options):
    evaluator = COCOPanopticEvaluator(name, **options)
    evaluator.process([RECORD], [{"panoptic_seg": (torch.from_numpy(ids), infos)}])
    return evaluator.evaluate()["panoptic_seg"]


def predicted_ids():
    ids = TRUTH.copy()
    ids[ids == 70000] = 3
    return ids


class TestNumbers:
    def test_a_perfect_prediction_scores_100(self, dataset):
        metrics = evaluate(dataset, predicted_ids(), INFOS)
        assert list(metrics) == [f"{m}{g}" for g in ("", "_th", "_st") for m in ("PQ", "SQ", "RQ")]
        assert set(metrics.values()) == {100}

    def test_quality_is_the_product_of_overlap_and_recognition(self, dataset):
        ids = predicted_ids()
        ids[:10, 24:] = 2  # six of fifteen columns of one person are taken for the other
        metrics = evaluate(dataset, ids, INFOS)
        # IoU of the people: 150 of 210 and 90 of 150 pixels; both are matched.
        assert metrics["SQ_th"] == pytest.approx(100 * (150 / 210 + 90 / 150) / 2)
        assert metrics["RQ_th"] == 100
        assert metrics["PQ"] == pytest.approx((100 + metrics["PQ_th"]) / 2)

    def test_ids_may_hold_the_category(self, dataset):
        ids = np.full((HEIGHT, WIDTH), 1 * 1000)  # stuff of class 1
        ids[:10, :15] = 0 * 1000 + 1  # things of class 0
        ids[:10, 15:] = 0 * 1000 + 2
        assert evaluate(dataset, ids, None)["PQ"] == 100
        ids[0, 0] = -1  # void
        assert 99 < evaluate(dataset, ids, None)["PQ"] < 100

    def test_categories_may_be_those_of_the_dataset_already(self, dataset):
        infos = [
            {"id": 1, "category_id": 90},
            {"id": 2, "category_id": 5},
            {"id": 3, "category_id": 5},
        ]
        assert evaluate(dataset, predicted_ids(), infos)["PQ"] == 100


class TestFiles:
    def test_predictions_are_written_without_the_pictures(self, dataset, tmp_path):
        evaluate(dataset, predicted_ids(), INFOS, output_dir=str(tmp_path / "out"))
        content = json.loads((tmp_path / "out" / "predictions.json").read_text())
        annotation = content["annotations"][0]
        assert annotation["file_name"] == "a.png"
        assert set(annotation) == {"image_id", "file_name", "segments_info"}
        assert [s["category_id"] for s in annotation["segments_info"]] == [90, 5, 5]

    def test_the_callers_segments_stay_as_they_are(self, dataset):
        infos = [dict(info) for info in INFOS]
        evaluate(dataset, predicted_ids(), infos)
        assert infos == INFOS

    def test_an_image_without_prediction_is_an_error_that_names_it(self, dataset):
        with pytest.raises(ValueError, match="7"):
            COCOPanopticEvaluator(dataset).evaluate()
