"""Properties that hold for random transforms of random shapes."""

import numpy as np
import pytest
import torch

from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.drawn_shapes import write_drawn_shapes
from detectron2.structures import polygons_to_bitmask

H, W = 61, 83


def random_polygon(rng):
    """(P, 2), well inside of the image, without a corner that is thinner than a pixel."""
    count = int(rng.integers(6, 14))
    angles = (np.arange(count) + rng.uniform(-0.25, 0.25, count)) * 2 * np.pi / count
    radius = rng.uniform(10, 22)
    center = rng.uniform([26, 26], [W - 26, H - 26])
    return center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def sides(rng, low, high):
    return (int(side) for side in rng.integers(low, high, 2))


# Name -> function of a generator that makes a transform of an (H, W) image.
MAKERS = {
    "nothing": lambda rng: T.NoOpTransform(),
    "mirror": lambda rng: T.HFlipTransform(W),
    "flip": lambda rng: T.VFlipTransform(H),
    "resize": lambda rng: T.ResizeTransform(H, W, *sides(rng, 40, 160)),
    "crop": lambda rng: T.CropTransform(*sides(rng, 0, 20), 50, 40, W, H),
    "pad": lambda rng: T.PadTransform(*sides(rng, 0, 20), *sides(rng, 0, 20), W, H),
    "turn": lambda rng: T.RotationTransform(H, W, rng.uniform(-180, 180)),
    "turn in place": lambda rng: T.RotationTransform(H, W, rng.uniform(-40, 40), expand=False),
    "list": lambda rng: T.TransformList(
        [
            T.HFlipTransform(W),
            T.ResizeTransform(H, W, 2 * H, 2 * W),
            T.CropTransform(3, 5, 140, 110, 2 * W, 2 * H),
            T.PadTransform(1, 2, 3, 4, 140, 110),
        ]
    ),
}


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "turn in place"])
def test_the_inverse_takes_points_back(name):
    rng = np.random.default_rng(0)
    for _ in range(20):
        transform = MAKERS[name](rng)
        points = rng.uniform(0, [W, H], (15, 2))
        there = transform.apply_coords(points.copy())
        # The size of a turned image is rounded; the turned-back one is cut out of it.
        tolerance = 0.51 if name == "turn" else 1e-4
        back = transform.inverse().apply_coords(there)
        np.testing.assert_allclose(back, points, atol=tolerance)


def test_a_rotation_that_cuts_off_corners_has_no_inverse():
    with pytest.raises(NotImplementedError, match="expand=True"):
        MAKERS["turn in place"](np.random.default_rng(0)).inverse()


@pytest.mark.parametrize("name", ["nothing", "mirror", "flip", "pad"])
def test_the_inverse_takes_pixels_back(name):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    for _ in range(5):
        transform = MAKERS[name](rng)
        there = transform.apply_image(image)
        assert np.array_equal(transform.inverse().apply_image(there), image)


def bounds_of_mask(mask):
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize("name", MAKERS)
def test_the_box_of_a_warped_polygon_is_that_of_the_warped_mask(name):
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(40):
        transform = MAKERS[name](rng)
        polygon = random_polygon(rng)
        mask = polygons_to_bitmask([polygon.reshape(-1)], H, W).astype(np.uint8)
        warped_mask = transform.apply_segmentation(mask)
        height, width = warped_mask.shape
        pieces = transform.apply_polygons([polygon.copy()])
        if not pieces or warped_mask.sum() < 30:  # cut off by the crop
            continue
        points = np.concatenate(pieces).clip(0, [width, height])
        box = np.concatenate([points.min(axis=0), points.max(axis=0)])
        # The mask that is warped has pixels as large as the transform makes them; those of a
        # turned one reach as far as their diagonal.
        sizes = {"resize": max(width / W, height / H, 1.0), "list": 2.0}
        pixel = 2**0.5 if name.startswith("turn") else sizes.get(name, 1.0)
        assert np.abs(box - bounds_of_mask(warped_mask)).max() <= pixel
        compared += 1
    assert compared > 20


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_drawn_shapes(folder, train_images=6, val_images=1, size=(48, 64))
    return load_coco_json(str(folder / "train.json"), str(folder / "train"))


def mapper(**options):
    return DatasetMapper(
        is_train=True,
        augmentations=[T.RandomCrop("absolute", (40, 50)), T.ResizeShortestEdge([40, 60], 90)],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
        **options,
    )


def mapped(record):
    np.random.seed(record["image_id"])
    return mapper()(record)


def test_the_order_of_the_dataset_changes_no_sample(records):
    in_order = {r["image_id"]: mapped(r) for r in records}
    for position in np.random.default_rng(0).permutation(len(records)):
        again = mapped(records[position])
        want = in_order[again["image_id"]]
        assert torch.equal(again["image"], want["image"])
        assert torch.equal(again["instances"].gt_boxes.tensor, want["instances"].gt_boxes.tensor)


def test_the_order_of_annotations_changes_no_object(records):
    for record in records:
        shuffled = {**record, "annotations": record["annotations"][::-1]}
        a, b = mapped(record)["instances"], mapped(shuffled)["instances"]
        assert len(a) == len(b)
        order = torch.arange(len(a) - 1, -1, -1)
        assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor[order])
        assert torch.equal(a.gt_classes, b.gt_classes[order])
        assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor[order])


def test_mapping_leaves_the_record_as_it_is(records):
    before = repr(records)
    for record in records:
        mapped(record)
    assert repr(records) == before
