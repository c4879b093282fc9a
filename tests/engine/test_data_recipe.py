"""What a dataset's measures choose, with numbers that a person can check."""

import dataclasses

import numpy as np
import pytest

from detectron2 import model_zoo
from detectron2.engine.data_recipe import (
    choose,
    cluster_aspect_ratios,
    mean_best_overlap,
    statistics_of,
)
from detectron2.structures import BoxMode

CONFIG = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"


def records(images, width, height, box):
    annotation = {"bbox": [10, 10, *box], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    return [{"width": width, "height": height, "annotations": [annotation]} for _ in range(images)]


def chosen(data, processes=1):
    cfg = model_zoo.get_config(CONFIG)
    return cfg, " ".join(choose(cfg, statistics_of(data), processes))


def test_the_overlap_of_anchors_and_boxes():
    boxes = np.array([[32.0, 32.0], [64.0, 32.0]])
    # The first is an anchor; the second has 32 * 32 in common with it, of 64 * 32.
    assert mean_best_overlap(boxes, np.array([32.0]), [1.0]) == pytest.approx((1 + 0.5) / 2)
    # Height / width = 0.5 at the area 64 * 32 is the second box itself.
    size = np.sqrt(64 * 32)
    assert mean_best_overlap(boxes[1:], np.array([size]), [0.5]) == pytest.approx(1)


def test_aspect_ratios_are_clustered():
    shapes = np.array([[100, 25], [40, 10], [10, 10], [20, 20], [10, 30], [20, 60]], dtype=float)
    assert cluster_aspect_ratios(shapes, 3) == [0.25, 1.0, 3.0]
    assert cluster_aspect_ratios(shapes[:1], 3) == [0.25] * 3


def test_small_images_stay_small_and_small_boxes_are_enlarged():
    cfg, said = chosen(records(50, 320, 256, (64, 64)))
    assert cfg.INPUT.MIN_SIZE_TEST == 256 == max(cfg.INPUT.MIN_SIZE_TRAIN)
    assert cfg.INPUT.MAX_SIZE_TRAIN == cfg.INPUT.MAX_SIZE_TEST == round(256 * 1333 / 800)
    assert "is 256 instead of 800" in said
    assert chosen(records(50, 320, 256, (16, 16)))[0].INPUT.MIN_SIZE_TEST == 512
    cfg, said = chosen(records(50, 4000, 3000, (64, 64)))
    assert cfg.INPUT.MIN_SIZE_TEST == 800 and "Image size stays 800" in said


def test_anchors_are_fitted_to_unusual_boxes_only():
    cfg, said = chosen(records(50, 1066, 800, (64, 64)))
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64], [128], [256], [512]]
    assert "Anchors stay as they are: their mean best overlap with the boxes is 1.00" in said
    cfg, said = chosen(records(50, 1066, 800, (200, 20)))
    assert cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS == [[0.1, 0.1, 0.1]]
    assert "Anchors are fitted to the boxes by k-means" in said


@pytest.mark.parametrize(("processes", "batch"), [(1, 2), (4, 8), (64, 16)])
def test_batch_rate_and_length_follow_the_linear_rule(processes, batch):
    usual = model_zoo.get_config(CONFIG).SOLVER
    cfg, said = chosen(records(500, 1066, 800, (64, 64)), processes)
    solver = cfg.SOLVER
    assert batch == solver.IMS_PER_BATCH
    assert pytest.approx(usual.BASE_LR * batch / 16) == solver.BASE_LR
    assert 36 * 500 // batch == solver.MAX_ITER
    assert tuple(round(s * solver.MAX_ITER / 90000) for s in (60000, 80000)) == solver.STEPS
    assert solver.WARMUP_ITERS <= solver.MAX_ITER // 10
    assert f"Training takes {solver.MAX_ITER} iterations, 36 times each of the 500 images" in said


def test_a_large_dataset_is_trained_on_as_long_as_coco():
    cfg = model_zoo.get_config(CONFIG)
    one = statistics_of(records(1, 640, 480, (64, 64)))
    choose(cfg, dataclasses.replace(one, images=120_000))
    assert cfg.SOLVER.MAX_ITER == 90_000 * 16 // 2


def test_what_has_no_size_counts_as_an_image():
    cfg, said = chosen([{"annotations": []}] * 3)
    assert cfg.INPUT.MIN_SIZE_TEST == 800 and "Anchors" not in said
    assert cfg.SOLVER.MAX_ITER == 200 * 3 // 2


def test_a_few_images_are_not_shown_for_ever():
    assert chosen(records(100, 640, 480, (64, 64)))[0].SOLVER.MAX_ITER == 4_000 // 2
    assert chosen(records(10, 640, 480, (64, 64)))[0].SOLVER.MAX_ITER == 200 * 10 // 2
