import copy
import pickle

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch

from detectron2.structures import BitMasks, PolygonMasks, polygons_to_bitmask
from detectron2.structures.masks import polygon_area, rasterize_polygons_within_box

# pycocotools, the oracle, has an __array__ of the time before NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TRIANGLE = np.array([5.0, 5, 30, 5, 30, 25])
RECTANGLE = np.array([40.0, 40, 60, 40, 60, 70, 40, 70])
SQUARE = np.array([0.0, 0, 10, 0, 10, 10, 0, 10])


@pytest.fixture
def masks():
    return PolygonMasks([[TRIANGLE, RECTANGLE], [SQUARE], []])


def random_objects(count, seed, size=200):
    rng = np.random.default_rng(seed)
    return [
        [rng.uniform(-20, size, 2 * rng.integers(3, 40)) for _ in range(rng.integers(1, 4))]
        for _ in range(count)
    ]


def coco_fill(polygons, height, width):
    rles = coco_mask.frPyObjects([np.asarray(p, dtype=np.float64) for p in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(rles)).astype(bool)


@pytest.mark.parametrize("seed", range(5))
def test_convention_bitmaps_are_those_of_the_coco_api(seed):
    for polygons in random_objects(10, seed):
        expected = coco_fill(polygons, 150, 170)
        mask = polygons_to_bitmask(polygons, 150, 170)
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, expected)
        assert np.array_equal(BitMasks.from_polygon_masks([polygons], 150, 170).tensor[0], expected)


@pytest.mark.parametrize("mask_size", [1, 14, 28, 57])
def test_crop_and_resize_fills_polygons_in_the_frame_of_their_box(mask_size, device):
    objects = random_objects(30, seed=mask_size)
    masks = PolygonMasks(objects)
    jitter = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    boxes = masks.get_bounding_boxes().tensor + jitter * 5
    boxes[3] = torch.tensor([20.0, 20, 20, 20])  # no area
    crops = masks.crop_and_resize(boxes.to(device), mask_size)
    assert crops.dtype == torch.bool and crops.device.type == device.type
    for polygons, box, crop in zip(objects, boxes.numpy().astype(np.float64), crops.cpu()):
        scale = mask_size / np.maximum(box[2:] - box[:2], 0.1)
        moved = [((p.reshape(-1, 2) - box[:2]) * scale).ravel() for p in polygons]
        assert np.array_equal(crop, coco_fill(moved, mask_size, mask_size))


def test_a_polygon_that_fills_its_box_fills_the_crop(masks):
    crops = masks[[1]].crop_and_resize(torch.tensor([[0.0, 0, 10, 10]]), 8)
    assert crops.all()


def test_convention_sides_of_boxes_count_as_a_tenth_of_a_pixel_at_least(masks):
    # The square ends at x = 10: it covers all of [9.9, 10.0], and nothing to the right.
    left_of_the_side = torch.tensor([[9.9, 5, 9.9, 5.5]])
    assert masks[[1]].crop_and_resize(left_of_the_side, 8).all()
    assert not masks[[1]].crop_and_resize(left_of_the_side + 0.11, 8).any()


def test_one_crop_is_what_rasterize_polygons_within_box_gives(masks):
    box = torch.tensor([0.0, 0, 70, 80])
    crop = masks[0].crop_and_resize(box[None], 28)[0]
    assert torch.equal(rasterize_polygons_within_box([TRIANGLE, RECTANGLE], box.numpy(), 28), crop)


def test_crop_and_resize_takes_no_objects_and_refuses_a_wrong_count(masks):
    assert PolygonMasks([]).crop_and_resize(torch.zeros(0, 4), 14).shape == (0, 14, 14)
    with pytest.raises(ValueError, match="3 masks need boxes"):
        masks.crop_and_resize(torch.zeros(2, 4), 14)


def test_bounding_boxes_hold_all_polygons_of_an_object(masks):
    assert masks.get_bounding_boxes().tensor.tolist() == [
        [5, 5, 60, 70],
        [0, 0, 10, 10],
        [0, 0, 0, 0],
    ]


def test_areas_are_added_up_over_polygons(masks):
    assert masks.area().tolist() == [250 + 600, 100, 0]
    assert masks.area().dtype == torch.float64
    assert polygon_area(np.array([0.0, 4, 0]), np.array([0.0, 0, 3])) == 6


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        (0, [2]),
        (-1, [0]),
        (slice(1, None), [1, 0]),
        ([2, 0], [0, 2]),
        (torch.tensor([True, False, True]), [2, 0]),
        (torch.tensor([1, 1]), [1, 1]),
        (torch.zeros(3, dtype=torch.bool), []),
        ([], []),
        (np.array([True, False, True]), [2, 0]),
    ],
)
def test_an_index_selects_objects(masks, item, kept):
    selected = masks[item]
    assert isinstance(selected, PolygonMasks)
    assert [len(polygons) for polygons in selected] == kept


@pytest.mark.parametrize(
    "item", [3, torch.tensor([3]), torch.ones(4, dtype=torch.bool), [[0, 1]], torch.tensor(1)]
)
def test_an_index_out_of_range_is_an_index_error(masks, item):
    with pytest.raises(IndexError):
        masks[item]


@pytest.mark.parametrize(
    "polygon", [[1.0, 2, 3, 4], [1.0, 2, 3, 4, 5, 6, 7], [[1.0, 2], [3, 4], [5, 6]], []]
)
def test_what_is_no_polygon_is_refused(polygon):
    with pytest.raises(ValueError, match="at least three corners"):
        PolygonMasks([[polygon]])


@pytest.mark.parametrize("polygons", [TRIANGLE, [TRIANGLE]])
def test_a_missing_level_of_lists_is_refused(polygons):
    with pytest.raises(ValueError, match="list"):
        PolygonMasks(polygons)


def test_polygons_may_be_lists_arrays_or_tensors():
    masks = PolygonMasks([[TRIANGLE.tolist()], [TRIANGLE.astype(np.float32)], [torch.ones(6)]])
    assert all(p.dtype == np.float64 for polygons in masks for p in polygons)


def test_cat_and_copies(masks):
    assert [len(p) for p in PolygonMasks.cat([masks, masks[1:]])] == [2, 1, 0, 1, 0]
    for copied in (copy.deepcopy(masks), pickle.loads(pickle.dumps(masks))):
        copied.polygons[1][0][:] = 0
    assert masks.area()[1] == 100


def test_convention_polygons_stay_on_the_cpu(masks):
    assert masks.to("meta") is masks
    assert masks.device == torch.device("cpu")
    assert masks.nonempty().tolist() == [True, True, False]
    assert repr(masks) == "PolygonMasks(num_instances=3)"
