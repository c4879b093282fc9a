import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.evaluation.sem_seg_evaluation import (
    _lowest_nearby,
    load_image_into_numpy_array,
)

IGNORED = 255


@pytest.fixture
def make_dataset(tmp_path):
    """Registers label maps of classes a, b and c; returns records and evaluator."""
    names = []

    def make(maps, **options):
        name = f"sem_seg_{tmp_path.name}_{len(names)}"
        names.append(name)
        records = []
        for i, labels in enumerate(maps):
            path = tmp_path / f"{name}_{i}.png"
            Image.fromarray(np.asarray(labels, dtype=np.uint8)).save(path)
            records.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)})
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(
            stuff_classes=["a", "b", "c"],
            ignore_label=IGNORED,
            stuff_dataset_id_to_contiguous_id={10: 0, 20: 1, 30: 2},
        )
        return records, SemSegEvaluator(name, distributed=False, **options)

    yield make
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def scores_of(labels):
    return torch.nn.functional.one_hot(torch.tensor(labels), 3).permute(2, 0, 1).float()


def evaluate(records, evaluator, predicted):
    evaluator.reset()
    for record, labels in zip(records, predicted):
        evaluator.process([record], [{"sem_seg": scores_of(labels)}])
    return evaluator.evaluate()["sem_seg"]


class TestNumbers:
    TRUTH = [[0, 0, 0, 1], [0, 0, 1, 1], [IGNORED, 0, 1, 1]]
    PREDICTED = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 0, 1, 0]]

    def test_iou_and_accuracy_can_be_checked_by_hand(self, make_dataset):
        records, evaluator = make_dataset([self.TRUTH])
        result = evaluate(records, evaluator, [self.PREDICTED])
        # a: 6 true, 6 predicted, 5 in common; b: 5 true, 5 predicted, 4 in common.
        assert result["IoU-a"] == pytest.approx(100 * 5 / 7)
        assert result["IoU-b"] == pytest.approx(100 * 4 / 6)
        assert result["mIoU"] == pytest.approx(100 * (5 / 7 + 4 / 6) / 2)
        assert result["fwIoU"] == pytest.approx(100 * (5 / 7 * 6 + 4 / 6 * 5) / 11)
        assert result["ACC-a"] == pytest.approx(100 * 5 / 6)
        assert result["mACC"] == pytest.approx(100 * (5 / 6 + 4 / 5) / 2)
        assert result["pACC"] == pytest.approx(100 * 9 / 11)

    def test_a_class_that_does_not_occur_is_nan_and_no_part_of_means(self, make_dataset):
        records, evaluator = make_dataset([self.TRUTH])
        result = evaluate(records, evaluator, [self.PREDICTED])
        assert all(math.isnan(result[f"{m}-c"]) for m in ("IoU", "ACC", "min(IoU, B-Iou)"))

    def test_pixels_count_over_all_images(self, make_dataset):
        halves = [self.TRUTH[:1], self.TRUTH[1:]]
        parts = evaluate(*make_dataset(halves), [self.PREDICTED[:1], self.PREDICTED[1:]])
        whole = evaluate(*make_dataset([self.TRUTH]), [self.PREDICTED])
        for key in ("mIoU", "fwIoU", "mACC", "pACC"):
            assert parts[key] == whole[key]

    def test_perfect_predictions_score_100_everywhere(self, make_dataset):
        labels = np.kron([[0, 1], [2, 0]], np.ones((20, 30), dtype=int))
        result = evaluate(*make_dataset([labels]), [labels])
        assert all(value == pytest.approx(100) for value in result.values())

    def test_a_shift_hurts_borders_more_than_regions(self, make_dataset):
        labels = np.kron([[0, 1], [2, 0]], np.ones((40, 40), dtype=int))
        result = evaluate(*make_dataset([labels]), [np.roll(labels, 2, axis=1)])
        assert result["BoundaryIoU-c"] < result["IoU-c"] < 100
        assert result["min(IoU, B-Iou)-c"] == result["BoundaryIoU-c"]

    def test_quirk_the_boundary_of_label_maps_is_a_difference_of_labels(self, make_dataset):
        # Class 0 stands for every pixel that is away from a border or next to nothing lower.
        labels = np.kron([[0, 1]], np.ones((40, 40), dtype=int))
        records, evaluator = make_dataset([labels])
        evaluate(records, evaluator, [labels])
        rim = 40 * 40 - 36 * 36  # two pixels wide: 2 % of the diagonal
        assert evaluator._b_conf_matrix[1, 1] == rim
        assert evaluator._b_conf_matrix[0, 0] == labels.size - rim

    def test_a_second_run_starts_from_nothing(self, make_dataset):
        records, evaluator = make_dataset([self.TRUTH])
        first = evaluate(records, evaluator, [self.PREDICTED])
        second = evaluate(records, evaluator, [self.PREDICTED])
        np.testing.assert_array_equal(list(first.values()), list(second.values()))


class TestBoundary:
    @pytest.mark.parametrize("radius", [1, 2, 3, 5, 8])
    def test_the_lowest_label_nearby_is_an_erosion_with_zeros_outside(self, radius):
        import cv2

        labels = np.random.default_rng(radius).integers(0, 9, (17, 23)).astype(np.uint8)
        padded = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=radius)[1:-1, 1:-1]
        np.testing.assert_array_equal(_lowest_nearby(labels, radius), eroded)

    def test_the_boundary_of_a_binary_mask_is_its_rim(self, make_dataset):
        _, evaluator = make_dataset([[[0]]])
        mask = np.zeros((40, 30), dtype=np.int32)
        mask[5:25, 5:20] = 1
        rim = mask.copy()
        rim[6:24, 6:19] = 0
        np.testing.assert_array_equal(evaluator._mask_to_boundary(mask), rim)  # 2 % of 50 pixels


class TestFiles:
    def test_predictions_and_results_are_written(self, make_dataset, tmp_path):
        out = tmp_path / "out"
        records, evaluator = make_dataset([TestNumbers.TRUTH], output_dir=str(out))
        result = evaluate(records, evaluator, [TestNumbers.PREDICTED])
        saved = torch.load(out / "sem_seg_evaluation.pth", weights_only=True)
        np.testing.assert_array_equal(list(saved.values()), list(result.values()))
        predictions = json.loads((out / "sem_seg_predictions.json").read_text())
        assert [p["category_id"] for p in predictions] == [10, 20, 30]
        assert set(predictions[0]) == {"file_name", "category_id", "segmentation"}

    def test_run_lengths_decode_to_the_prediction(self, make_dataset):
        from hotcoco import mask as rle_codec

        _, evaluator = make_dataset([[[0]]])
        labels = np.array(TestNumbers.PREDICTED)
        for item in evaluator.encode_json_sem_seg(labels, "x.jpg"):
            label = item["category_id"] // 10 - 1
            np.testing.assert_array_equal(rle_codec.decode(item["segmentation"]), labels == label)

    def test_a_class_without_dataset_id_is_named(self, make_dataset):
        _, evaluator = make_dataset([[[0]]])
        with pytest.raises(AssertionError, match=r"Class 3 is predicted for x\.jpg"):
            evaluator.encode_json_sem_seg(np.array([[3]]), "x.jpg")


class TestErrors:
    def test_labels_beyond_the_classes_are_named_with_their_file(self, make_dataset):
        records, evaluator = make_dataset([[[0, 7]]])
        with pytest.raises(ValueError, match=r"_0\.png has labels 0 to 7.*0 to 2, or 255"):
            evaluate(records, evaluator, [[[0, 0]]])

    def test_a_prediction_of_another_size_is_named(self, make_dataset):
        records, evaluator = make_dataset([[[0, 0]]])
        with pytest.raises(ValueError, match=r"\(1, 2\).*prediction \(2, 2\)"):
            evaluate(records, evaluator, [[[0, 0], [0, 0]]])

    def test_classes_may_only_repeat_the_metadata(self, make_dataset, caplog):
        make_dataset([[[0]]], num_classes=3, ignore_label=9)
        assert "deprecated" in caplog.text
        with pytest.raises(AssertionError, match="num_classes=4"):
            make_dataset([[[0]]], num_classes=4)

    def test_labels_may_come_from_a_function(self, make_dataset):
        truth = np.array([[0, 1]])
        records, evaluator = make_dataset(
            [[[2, 2]]], sem_seg_loading_fn=lambda name, dtype: truth.astype(dtype)
        )
        assert evaluate(records, evaluator, [truth])["mIoU"] == 100


def test_label_images_are_read_as_stored(tmp_path):
    labels = np.array([[1, 300], [2, 65535]], dtype=np.uint16)
    Image.fromarray(labels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(load_image_into_numpy_array(str(tmp_path / "x.png")), labels)
    assert load_image_into_numpy_array(str(tmp_path / "x.png"), dtype=int).dtype == np.int64
