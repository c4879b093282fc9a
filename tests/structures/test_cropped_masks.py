"""Bitmaps of which only the part with pixels is kept: everything is as with whole bitmaps."""

import copy
import pickle

import numpy as np
import pytest
import torch

from detectron2.ops import dispatch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.structures._cropped_masks import CroppedBitMasks

SIZE = (37, 53)


def polygons(seed, count=6):
    """Objects inside, across the border and outside of the image, of 0 to 3 polygons."""
    rng = np.random.default_rng(seed)
    objects = []
    for _ in range(count):
        parts = []
        for _ in range(rng.integers(0, 4)):
            centre = rng.uniform(-30, 80, 2)
            corners = centre + rng.normal(0, rng.choice([0.3, 5, 40]), (rng.integers(3, 9), 2))
            # Borders between two pixels are where rounding shows.
            parts.append(corners.round(int(rng.integers(0, 3))).reshape(-1))
        objects.append(parts)
    return PolygonMasks(objects)


def both(seed, count=6):
    masks = polygons(seed, count)
    return CroppedBitMasks.of_polygons(masks, *SIZE), BitMasks.from_polygon_masks(masks, *SIZE)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_pixels_boxes_and_emptiness_are_those_of_whole_bitmaps(implementation):
    with dispatch.use_implementation(implementation):
        for seed in range(30 if implementation == "auto" else 5):
            cropped, whole = both(seed)
            assert torch.equal(cropped.nonempty(), whole.nonempty())
            boxes = whole.get_bounding_boxes().tensor
            assert torch.equal(cropped.get_bounding_boxes().tensor, boxes)
            assert cropped._is_small
            assert torch.equal(cropped.tensor, whole.tensor)
            assert not cropped._is_small
            assert torch.equal(cropped.nonempty(), whole.nonempty())
            assert torch.equal(cropped.get_bounding_boxes().tensor, boxes)


@pytest.mark.parametrize(
    "item",
    [2, -1, slice(1, 4), slice(0, 0), [0, 3], [], torch.tensor([True, False] * 3),
     torch.tensor([5, 5, -6])],
    ids=repr,
)  # fmt: skip
def test_indexing_selects_the_same_masks(item):
    cropped, whole = both(1)
    some = cropped[item]
    assert isinstance(some, CroppedBitMasks) and len(some) == len(whole[item])
    assert torch.equal(some.tensor, whole[item].tensor)
    assert cropped.tensor.dtype == torch.bool  # drawn from here on
    assert torch.equal(cropped[item].tensor, whole[item].tensor)


def test_an_index_out_of_range_is_an_error():
    with pytest.raises(IndexError):
        both(1)[0][6]


def test_crops_for_mask_heads_are_the_same():
    cropped, whole = both(2, count=12)
    boxes = torch.rand(12, 4) * 20
    boxes[:, 2:] += boxes[:, :2] + 5
    assert torch.equal(cropped.crop_and_resize(boxes, 7), whole.crop_and_resize(boxes, 7))


def test_lists_are_joined_with_each_other_and_with_whole_bitmaps():
    (a, whole_a), (b, whole_b) = both(3), both(4)
    want = BitMasks.cat([whole_a, whole_b]).tensor
    assert CroppedBitMasks.cat([a, b])._is_small
    assert torch.equal(CroppedBitMasks.cat([a, b]).tensor, want)
    assert torch.equal(CroppedBitMasks.cat([a, whole_b]).tensor, want)
    assert torch.equal(BitMasks.cat([whole_a, b]).tensor, want)
    first, second = Instances(SIZE, gt_masks=a), Instances(SIZE, gt_masks=b)
    assert torch.equal(Instances.cat([first, second]).gt_masks.tensor, want)


def test_they_are_sent_between_processes_without_the_empty_part():
    cropped, whole = both(5)
    sent = pickle.loads(pickle.dumps(cropped))
    assert sent._is_small and torch.equal(sent.tensor, whole.tensor)
    square = PolygonMasks([[[1.0, 1, 9, 1, 9, 9, 1, 9]]])
    small = CroppedBitMasks.of_polygons(square, 2000, 2000)
    assert len(pickle.dumps(small)) < 4000
    assert small._pixels.untyped_storage().nbytes() == 64


def test_they_move_and_copy_as_bitmaps_do():
    cropped, whole = both(6)
    for moved in (cropped.to("cpu"), cropped.to(torch.float32), copy.deepcopy(cropped)):
        assert moved._is_small and moved.device == torch.device("cpu")
        assert moved.tensor.dtype == torch.bool and torch.equal(moved.tensor, whole.tensor)
    assert [mask.sum() for mask in cropped] == [mask.sum() for mask in whole]


def test_who_writes_to_the_tensor_is_understood():
    cropped, _ = both(7)
    cropped.tensor[:] = False
    assert not cropped.nonempty().any() and not cropped[0].nonempty().any()
    cropped.tensor = torch.ones(2, *SIZE, dtype=torch.bool)
    assert len(cropped) == 2 and cropped.nonempty().all()


def test_no_objects_and_no_pixels_are_fine():
    none = CroppedBitMasks.of_polygons(PolygonMasks([]), *SIZE)
    assert len(none) == 0 and none.tensor.shape == (0, *SIZE) and len(none.nonempty()) == 0
    flat = CroppedBitMasks.of_polygons(polygons(8), 0, 5)
    assert flat.tensor.shape == (6, 0, 5) and not flat.nonempty().any()
