"""Transforms of Albumentations; the package is optional and not among the developers' own."""

import sys

import numpy as np
import pytest

from detectron2.data.albumentations import Albumentations
from detectron2.data.mixing import Sample
from detectron2.structures import BoxMode

H, W = 40, 60


@pytest.fixture
def albumentations(monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    return pytest.importorskip("albumentations", reason="albumentations is not installed")


def sample(as_mask):
    """A bright rectangle, its annotation, and labels."""
    image = np.zeros((H, W, 3), np.uint8)
    image[8:20, 10:34] = 200
    mask = image[:, :, 0] > 0
    polygon = np.array([10, 8, 34, 8, 34, 20, 10, 20], dtype=np.float64)
    annotation = {
        "bbox": np.array([10.0, 8, 34, 20]),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "segmentation": mask if as_mask else [polygon],
        "keypoints": np.array([[12.0, 10, 2], [32.0, 18, 2], [0.0, 0, 0]]),
    }
    return Sample(image, [annotation], mask.astype(np.uint8), [1, 0, 2])


def box_of(bright):
    rows, columns = np.nonzero(bright)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("as_mask", [False, True])
def test_everything_moves_together(albumentations, as_mask):
    transforms = {
        "mirror": albumentations.HorizontalFlip(p=1),
        "flip": albumentations.VerticalFlip(p=1),
        "crop": albumentations.Crop(5, 4, 50, 36, p=1),
        "turn": albumentations.Rotate((20, 20), p=1),
        "pixels": albumentations.RandomBrightnessContrast(p=1),
        "transpose": albumentations.Transpose(p=1),
    }
    for name, transform in transforms.items():
        np.random.seed(0)
        result = Albumentations([transform]).combine(sample(as_mask), [])
        (annotation,) = result.annotations
        bright = result.image[:, :, 0] > 60
        assert np.abs(annotation["bbox"] - box_of(bright)).max() <= 1.5, name
        assert (result.sem_seg.astype(bool) != bright).mean() < 0.05, name
        points = annotation["keypoints"]
        assert points[:2, 2].tolist() == [2, 2] and points[2].tolist() == [0, 0, 0]
        for x, y, _ in points[:2]:
            assert bright[int(y), int(x)], name


def test_mirrored_keypoints_change_places(albumentations):
    result = Albumentations([albumentations.HorizontalFlip(p=1)]).combine(sample(False), [])
    points = result.annotations[0]["keypoints"]
    # What was left is right: 60 - 32 = 28 and 60 - 12 = 48, up to a pixel.
    assert np.abs(points[:2, 0] - [28, 48]).max() <= 1


def test_objects_outside_are_dropped(albumentations):
    crop = albumentations.Crop(40, 0, 60, 40, p=1)
    assert Albumentations([crop]).combine(sample(False), []).annotations == []


def test_convention_the_seed_of_numpy_decides(albumentations):
    augmentation = Albumentations([albumentations.Affine(rotate=(-40, 40), p=1)])
    images = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        images.append(augmentation(sample(False), lambda: None).image)
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def test_without_the_package_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ImportError, match="pip install albumentations"):
        Albumentations([])
