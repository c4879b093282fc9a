"""Annotations that were drawn on an image as stored follow it when its orientation turns it."""

import json

import hotcoco.mask
import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data._segmentations import decode_rle
from detectron2.data.check import Cache, check, cleaned_content, cleaned_records, coco_dataset
from detectron2.data.check.problems import ORIGIN
from detectron2.data.check.records import record_dataset
from detectron2.data.check.turning import turned_annotation
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import SemSegEvaluator
from detectron2.structures import BoxMode, RotatedBoxes, polygons_to_bitmask

WIDTH, HEIGHT = 40, 24
POLYGON = [3, 4, 20, 6, 17, 18, 5, 15]
ORIENTATIONS = (5, 6, 7, 8)


def seen(array, orientation, folder):
    """An (h, w) array of 0 and 255 as it is read when it is stored with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = folder / f"{orientation}.png"
    Image.fromarray(array).save(path, exif=exif)
    return read_image(str(path), "L")[:, :, 0]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_polygons_and_boxes_are_turned_as_the_image_is(orientation, tmp_path):
    mask = polygons_to_bitmask([np.array(POLYGON, dtype=float)], HEIGHT, WIDTH)
    want = seen(mask.astype(np.uint8) * 255, orientation, tmp_path) > 0
    rle = hotcoco.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    entry = {"bbox": [3, 4, 17, 14], "segmentation": [POLYGON]}
    turned = turned_annotation(entry, orientation, WIDTH, HEIGHT)
    as_rle = turned_annotation({**entry, "segmentation": rle}, orientation, WIDTH, HEIGHT)
    assert (decode_rle(as_rle["segmentation"]) == want).all()
    drawn = polygons_to_bitmask([np.array(turned["segmentation"][0])], WIDTH, HEIGHT)
    # Pixels whose centre lies on the outline belong to one side or the other.
    assert (drawn != want).sum() <= 12
    xs, ys = np.reshape(turned["segmentation"][0], (-1, 2)).T
    assert turned["bbox"] == [xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("origin", [{}, {ORIGIN: [0, 0]}], ids=["pixel indices", "coordinates"])
def test_keypoints_stay_on_their_pixel(orientation, origin, tmp_path):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[5, 30] = 255
    half = 0.5 if origin else 0.0
    entry = {"bbox": [0, 0, 4, 4], "keypoints": [30 + half, 5 + half, 2, 0, 0, 0], **origin}
    x, y, *rest = turned_annotation(entry, orientation, WIDTH, HEIGHT)["keypoints"]
    assert seen(pixels, orientation, tmp_path)[int(y), int(x)] == 255
    assert rest == [2, 0, 0, 0]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_rotated_boxes_keep_their_corners(orientation):
    box = [18.0, 11.0, 12.0, 6.0, 25.0]
    turned = turned_annotation({"bbox": box}, orientation, WIDTH, HEIGHT)["bbox"]
    corners = [RotatedBoxes([b]).tensor.numpy()[0] for b in (box, turned)]
    before, after = (_corners(*b) for b in corners)
    moved = turned_annotation(
        {"bbox": [0, 0, 1, 1], "segmentation": [before.ravel().tolist()]},
        orientation, WIDTH, HEIGHT,
    )["segmentation"][0]  # fmt: skip
    key = lambda points: sorted(map(tuple, np.round(np.reshape(points, (-1, 2)), 3)))  # noqa: E731
    np.testing.assert_allclose(key(moved), key(after), atol=2e-3)


def _corners(x, y, w, h, angle):
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [w / 2, h / 2]
    return np.array([x, y]) + signs @ np.array([[c, -s], [s, c]])


@pytest.fixture
def stored(tmp_path):
    """An image on its side, and a COCO file that was drawn on it as it is stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[4:18, 3:20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 17, 14]}],
        "categories": [{"id": 1, "name": "white"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return coco_dataset(tmp_path / "a.json", tmp_path)


def white_share(path, box):
    x, y, w, h = map(round, box)
    return read_image(str(path), "L")[y : y + h, x : x + w].mean() / 255


def test_policy_fix_turns_the_annotations_of_unturned_images(stored, tmp_path):
    problems = check(stored, cache=Cache(enabled=False)).problems
    assert "exif-unturned" in {problem.kind for problem in problems}
    content = cleaned_content(stored.load(), problems, "fix")
    (image,), (annotation,) = content["images"], content["annotations"]
    assert (image["width"], image["height"]) == (HEIGHT, WIDTH)
    assert white_share(tmp_path / "a.png", annotation["bbox"]) == 1
    assert cleaned_content(stored.load(), problems, "skip")["images"] == []


def test_policy_fix_turns_records_too(tmp_path, stored):
    box = {"bbox": [3, 4, 20, 18], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    records = [
        {"file_name": str(tmp_path / "a.png"), "image_id": "a", "width": WIDTH,
         "height": HEIGHT, "annotations": [box]}
    ]  # fmt: skip
    dataset = record_dataset("whites", records, ["white"])
    problems = check(dataset, cache=Cache(enabled=False)).problems
    (record,) = cleaned_records(records, dataset, problems, "fix")
    assert (record["width"], record["height"]) == (HEIGHT, WIDTH)
    (annotation,) = record["annotations"]
    assert annotation["bbox_mode"] == BoxMode.XYWH_ABS
    assert white_share(tmp_path / "a.png", annotation["bbox"]) == 1


@pytest.fixture
def labelled(tmp_path):
    """Writes a photo with an orientation and a label map; returns its record and the labels."""

    def write(orientation, turn_map):
        stored = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)
        shown = seen(stored, orientation, tmp_path)
        Image.fromarray(shown if turn_map else stored).save(tmp_path / "labels.png")
        photo = str(tmp_path / f"{orientation}.png")
        return {"file_name": photo, "sem_seg_file_name": str(tmp_path / "labels.png")}, shown

    return write


@pytest.mark.parametrize("turn_map", [False, True], ids=["as stored", "as shown"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_label_maps_are_turned_as_the_image_is(orientation, turn_map, labelled):
    record, shown = labelled(orientation, turn_map)
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="L")
    sample = mapper(record)
    assert (sample["image"][0].numpy() == shown).all()
    assert (sample["sem_seg"].numpy() == shown).all()


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_convention_label_maps_of_the_right_size_are_taken_as_drawn_on_the_image_shown(
    orientation, labelled
):
    record, shown = labelled(orientation, turn_map=True)
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="L")
    assert (mapper(record)["sem_seg"].numpy() == shown).all()


@pytest.mark.usefixtures("catalogs_as_before")
def test_label_maps_of_an_evaluation_are_turned_as_the_image_is(labelled):
    record, shown = labelled(6, turn_map=False)
    DatasetCatalog.register("turned_maps", lambda: [record])
    MetadataCatalog.get("turned_maps").set(stuff_classes=list("abc"), ignore_label=255)
    evaluator = SemSegEvaluator("turned_maps", distributed=False)
    scores = np.eye(3, dtype=np.float32)[shown].transpose(2, 0, 1)
    evaluator.process([record], [{"sem_seg": torch.from_numpy(scores)}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_check_says_what_annotations_of_the_turned_size_are_taken_for(orientation, tmp_path):
    grey = seen(np.zeros((HEIGHT, WIDTH), np.uint8), orientation, tmp_path)
    image = {"id": 1, "file_name": f"{orientation}.png"}
    image["height"], image["width"] = grey.shape
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    report = check(coco_dataset(tmp_path / "a.json", tmp_path), cache=Cache(enabled=False))
    (problem,) = [p for p in report.problems if p.kind == "exif-rotated"]
    assert "taken to be drawn on the turned image" in problem.reason
    assert ("to be sure" in problem.reason) == (orientation == 3)
