import gc
import pickle

import numpy as np
import pytest
import torch

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.coco_results import CocoResults, encode_masks, no_garbage_collection
from detectron2.structures import Boxes, Instances


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 40, 50), dtype=bool)
    for mask in masks[:4]:
        x, y = rng.integers(0, 20, 2)
        mask[y : y + 15, x : x + 25] = rng.uniform(size=(15, 25)) < 0.7
    masks[4] = True
    return masks  # the last one is empty


def boxes_around(masks):
    boxes = []
    for mask in masks:
        rows, columns = np.nonzero(mask) if mask.any() else (np.zeros(1), np.zeros(1))
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return np.array(boxes, dtype=np.float32)


class TestEncodeMasks:
    @pytest.mark.parametrize("hint", ["none", "exact", "wrong", "outside", "nan"])
    def test_run_lengths_are_those_of_pycocotools_whatever_the_boxes(self, masks, hint):
        import pycocotools.mask as coco_mask

        boxes = boxes_around(masks)
        boxes = {
            "none": None,
            "exact": boxes,
            "wrong": boxes[::-1].copy(),
            "outside": boxes + 1000,
            "nan": np.full_like(boxes, np.nan),
        }[hint]
        expected = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
        assert encode_masks(masks, boxes) == expected

    def test_numbers_other_than_zero_are_inside(self, masks):
        assert encode_masks(masks.astype(np.float32)) == encode_masks(masks)

    def test_no_masks_are_no_run_lengths(self):
        assert encode_masks(np.zeros((0, 4, 4), dtype=bool), np.zeros((0, 4))) == []


class TestColumns:
    @pytest.fixture
    def parts(self, masks):
        rng = np.random.default_rng(1)
        return [
            CocoResults.of_image(
                image,
                rng.integers(5, size=3),
                rng.uniform(size=3).astype(np.float32),
                rng.uniform(0, 9, (3, 4)).astype(np.float32),
                encode_masks(masks[:3]),
                rng.uniform(size=(3, 6)),
            )
            for image in (11, 12)
        ]

    def test_items_are_result_dictionaries(self, parts):
        item = parts[0][1]
        assert set(item) == {
            "image_id",
            "category_id",
            "bbox",
            "score",
            "segmentation",
            "keypoints",
        }
        assert item["image_id"] == 11
        assert type(item["image_id"]) is type(item["category_id"]) is int
        assert [len(item["bbox"]), len(item["keypoints"])] == [4, 6]
        assert isinstance(item["segmentation"]["counts"], str)
        assert item == list(parts[0])[1] == parts[0][1:2][0]

    def test_concatenation_keeps_the_order(self, parts):
        both = CocoResults.concatenate(parts)
        assert list(both) == [*parts[0], *parts[1]]
        np.testing.assert_array_equal(both.mask_areas[:3], both.mask_areas[3:])

    def test_an_image_without_detections_does_not_take_masks_away(self, parts):
        nothing = CocoResults.of_image(13, np.zeros(0), np.zeros(0), np.zeros((0, 4)))
        both = CocoResults.concatenate([nothing, *parts])
        assert both.mask_counts is not None
        assert len(both) == 6

    def test_nothing_concatenates_to_nothing(self):
        assert list(CocoResults.concatenate([])) == []

    def test_areas_are_pixels(self, parts, masks):
        np.testing.assert_array_equal(parts[0].mask_areas, masks[:3].sum(axis=(1, 2)))

    def test_text_and_numbers_stay_what_they_are_as_image_ids(self):
        row = (np.zeros(1), np.ones(1), np.zeros((1, 4)))
        parts = [CocoResults.of_image(image, *row) for image in ("a", 5)]
        assert [r["image_id"] for r in CocoResults.concatenate(parts)] == ["a", 5]

    def test_columns_can_be_sent_to_another_process(self, parts):
        assert list(pickle.loads(pickle.dumps(parts[0]))) == list(parts[0])


class TestInstances:
    def test_boxes_become_corner_and_size(self):
        instances = Instances((10, 10))
        instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 4, 8]]))
        instances.scores = torch.tensor([0.25])
        instances.pred_classes = torch.tensor([7])
        assert instances_to_coco_json(instances, "x") == [
            {"image_id": "x", "category_id": 7, "bbox": [1, 2, 3, 6], "score": 0.25}
        ]
        assert instances_to_coco_json(instances[:0], "x") == []

    def test_run_lengths_are_taken_as_they_are(self, masks):
        instances = Instances((40, 50))
        instances.pred_boxes = Boxes(torch.zeros(2, 4))
        instances.scores = torch.ones(2)
        instances.pred_classes = torch.zeros(2, dtype=torch.long)
        instances.pred_masks_rle = encode_masks(masks[:2])
        first = instances_to_coco_json(instances, 1)
        instances.remove("pred_masks_rle")
        instances.pred_masks = torch.from_numpy(masks[:2])
        assert first == instances_to_coco_json(instances, 1)


def test_the_last_thread_to_leave_lets_the_garbage_collector_go_on():
    first, second = no_garbage_collection(), no_garbage_collection()
    assert gc.isenabled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()
