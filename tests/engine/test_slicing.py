"""Detection slice by slice: where slices lie, how their detections merge, and whole images."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.engine import DefaultPredictor, SlicedPredictor
from detectron2.engine.predict_command import PredictOptions, run_predict
from detectron2.engine.slicing import Window, merge_slices, windows_over
from detectron2.engine.slicing.windows import reduced
from detectron2.model_zoo import get_config
from detectron2.structures import Boxes, Instances, ROIMasks, RotatedBoxes
from detectron2.utils.drawing.convert import roi_masks_to_generic
from detectron2.utils.drawing.generic_mask import GenericMask


@pytest.mark.parametrize(
    ("height", "width", "size", "overlap"),
    [(10, 10, 10, 0.5), (3, 200, 64, 0.25), (129, 64, 64, 0), (1, 1, 5, 0.9), (65, 65, 64, 0.99)],
)
def test_windows_cover_the_image_and_overlap(height, width, size, overlap):
    covered = np.zeros((height, width), dtype=int)
    windows = list(windows_over(height, width, size, overlap))
    for window in windows:
        assert window.right - window.left == min(size, width)
        assert window.bottom - window.top == min(size, height)
        covered[window.top : window.bottom, window.left : window.right] += 1
    assert covered.min() >= 1
    lefts = sorted({window.left for window in windows})
    for before, after in zip(lefts, lefts[1:]):
        assert before + size - after >= overlap * size - 1  # positions are whole pixels


def test_wrong_slices_are_refused_with_their_values():
    with pytest.raises(ValueError, match="slice size is 0"):
        list(windows_over(5, 5, 0, 0.5))
    with pytest.raises(ValueError, match=r"overlap of slices is 1\.0"):
        list(windows_over(5, 5, 2, 1.0))
    with pytest.raises(ValueError, match="merge threshold is 2"):
        merge_slices([(Window(0, 0, 9, 9, 9, 9), found([]))], (9, 9), threshold=2)


def found(boxes, scores=None, classes=None, size=(100, 100)):
    count = len(boxes)
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores or [0.9] * count),
        pred_classes=torch.tensor(classes or [0] * count, dtype=torch.int64),
    )


LEFT = Window(0, 0, 100, 100, 100, 180)
RIGHT = Window(80, 0, 180, 100, 100, 180)


def merged(left, right, **options):
    return merge_slices([(LEFT, left), (RIGHT, right)], (100, 180), **options)


def test_a_detection_moves_to_where_its_slice_lies():
    result = merged(found([[10, 20, 30, 40]], [0.5]), found([[40, 50, 60, 70]], [0.8]))
    assert result.image_size == (100, 180)
    assert result.pred_boxes.tensor.tolist() == [[120, 50, 140, 70], [10, 20, 30, 40]]
    torch.testing.assert_close(result.scores, torch.tensor([0.8, 0.5]))


def test_an_object_seen_in_two_slices_is_one_detection():
    result = merged(found([[85, 10, 95, 40]], [0.6]), found([[5, 10, 15, 41]], [0.7]))
    assert result.pred_boxes.tensor.tolist() == [[85, 10, 95, 41]]


def test_the_whole_object_wins_over_its_half_of_higher_score():
    half, whole = [85, 10, 100, 40], [5, 10, 40, 40]
    result = merged(found([half], [0.99]), found([whole], [0.5]))
    assert result.pred_boxes.tensor.tolist() == [[85, 10, 120, 40]]


def test_of_two_pieces_the_larger_one_stays():
    piece, larger = [30, 10, 100, 40], [0, 10, 60, 40]
    result = merged(found([piece], [0.5]), found([larger], [0.9]), threshold=0.2)
    assert result.pred_boxes.tensor.tolist() == [[30, 10, 100, 40]]


def test_objects_of_other_classes_and_of_one_slice_are_left_alone():
    boxes = [[85, 10, 95, 40], [86, 10, 95, 40]]
    result = merged(found(boxes), found([[5, 10, 15, 40]], classes=[1]))
    assert len(result) == 3


def test_nothing_found_anywhere_is_an_empty_result():
    assert len(merged(found([]), found([]))) == 0


def test_rotated_boxes_keypoints_and_masks_move_too():
    part = found([[10, 10, 20, 20]])
    part.pred_keypoints = torch.tensor([[[12.0, 13.0, 0.5]]])
    part.pred_masks = ROIMasks(torch.rand(1, 28, 28))
    result = merge_slices([(RIGHT, part)], (100, 180))
    assert result.pred_keypoints.tolist() == [[[92.0, 13.0, 0.5]]]
    assert torch.equal(result.pred_masks.tensor, part.pred_masks.tensor)

    rotated = found([[0, 0, 1, 1]])
    rotated.pred_boxes = RotatedBoxes(torch.tensor([[50.0, 50, 30, 10, 45]]))
    result = merge_slices([(RIGHT, rotated)], (100, 180))
    assert result.pred_boxes.tensor.tolist() == [[130, 50, 30, 10, 45]]


def test_bitmaps_of_slices_are_refused():
    part = found([[10, 10, 20, 20]])
    part.pred_masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    with pytest.raises(ValueError, match="as ROIMasks only"):
        merge_slices([(RIGHT, part)], (100, 180))


def test_a_reduced_image_is_the_mean_of_blocks():
    image = np.arange(7 * 9 * 2, dtype=np.uint8).reshape(7, 9, 2)
    small = reduced(image, 3)
    assert small.shape == (2, 3, 2) and small.dtype == np.uint8
    assert np.array_equal(small[1, 2], image[3:6, 6:9].mean(axis=(0, 1)).round())


SMALL = [
    "MODEL.RESNETS.DEPTH=18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS=64",
    "MODEL.FPN.OUT_CHANNELS=32",
    "MODEL.RPN.POST_NMS_TOPK_TEST=20",
    "MODEL.ROI_HEADS.NUM_CLASSES=3",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0",
    "MODEL.ROI_BOX_HEAD.FC_DIM=32",
    "MODEL.ROI_MASK_HEAD.NUM_CONV=1",
    "MODEL.ROI_MASK_HEAD.CONV_DIM=16",
    "INPUT.MIN_SIZE_TEST=96",
    "TEST.DETECTIONS_PER_IMAGE=10",
]


@pytest.fixture(scope="module")
def predictor():
    cfg = get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.merge_from_list([part for entry in SMALL for part in entry.split("=")])
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    return DefaultPredictor(cfg)


def random_image(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_convention_an_image_of_one_slice_gives_what_the_predictor_gives(predictor):
    image = random_image(90, 110)
    expected = predictor(image)["instances"]
    result = SlicedPredictor(predictor, slice_size=110)(image)["instances"]
    assert torch.equal(result.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(result.scores, expected.scores)
    bitmaps = result.pred_masks.to_bitmasks(result.pred_boxes, 90, 110)
    assert torch.equal(bitmaps.tensor, expected.pred_masks)


def test_each_slice_is_detected_as_an_image_of_its_own(predictor, tmp_path):
    image = np.memmap(tmp_path / "large.raw", np.uint8, "w+", shape=(100, 170, 3))
    image[:] = random_image(100, 170)
    sliced = SlicedPredictor(predictor, 100, 0.3, whole_image=False, batch_size=2)
    result = sliced(image)["instances"]
    parts = []
    for left in (0, 70):
        alone = predictor(np.array(image[:, left : left + 100]))["instances"]
        alone.remove("pred_masks")
        parts.append((Window(left, 0, left + 100, 100, 100, 170), alone))
    expected = merge_slices(parts, (100, 170))
    torch.testing.assert_close(
        result.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-3
    )
    assert 0 < len(result) <= 20


def test_the_whole_image_is_looked_at_too(predictor):
    result = SlicedPredictor(predictor, 80, 0.1, threshold=1)(random_image(80, 240))["instances"]
    # No slice is wider than 80 pixels, so only the view of the whole can give a wider box.
    assert (result.pred_boxes.tensor[:, 2] - result.pred_boxes.tensor[:, 0]).max() > 80
    assert result.pred_boxes.tensor[:, 2].max() <= 240


def test_a_model_without_instances_is_refused_in_a_sentence(predictor, monkeypatch):
    monkeypatch.setattr(predictor.model, "forward", lambda inputs: [{"sem_seg": None}])
    with pytest.raises(ValueError, match=r"returns \['sem_seg'\], not 'instances'"):
        SlicedPredictor(predictor)(random_image(40, 40))


def test_masks_on_boxes_are_drawn_as_the_bitmaps_are(predictor):
    result = SlicedPredictor(predictor, slice_size=70)(random_image(90, 110))["instances"]
    outlines = roi_masks_to_generic(result.pred_masks, result.pred_boxes, 90, 110)
    bitmaps = result.pred_masks.to_bitmasks(result.pred_boxes, 90, 110).tensor.numpy()
    assert len(outlines) == len(bitmaps) > 0
    for outline, bitmap in zip(outlines, bitmaps):
        expected = GenericMask(bitmap, 90, 110).polygons
        assert len(outline.polygons) == len(expected)
        for polygon, other in zip(outline.polygons, expected):
            assert np.array_equal(polygon, other)


def test_convention_the_command_line_predicts_in_slices(tmp_path):
    Image.fromarray(random_image(90, 150)).save(tmp_path / "large.png")
    options = PredictOptions(
        inputs=[str(tmp_path / "large.png")],
        config="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
        output=tmp_path / "found",
        random_weights=True,
        min_score=0.0,
        slice_size=80,
        device="cpu",
        overrides=SMALL,
    )
    summary = run_predict(options)
    assert summary.images == 1 and summary.detections > 10  # more than one slice may have
    written = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert len(written["annotations"]) == summary.detections
    assert {tuple(each["segmentation"]["size"]) for each in written["annotations"]} == {(90, 150)}
    with Image.open(tmp_path / "found" / "large.png") as picture:
        assert picture.size == (150, 90)
