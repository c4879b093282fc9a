import copy
import pickle
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectron2.structures import BitMasks, Boxes, ROIMasks, _bitmaps
from detectron2.structures import masks as masks_module
from detectron2.structures._cropped_masks import CroppedBitMasks


@pytest.fixture
def masks(device):
    bits = torch.zeros(4, 20, 30, device=device)
    bits[0, 3:8, 4:20] = 1
    bits[1, 0, 0] = 1
    bits[2, 5, 29] = 0.5
    bits[2, 19, 1] = 7
    return BitMasks(bits)


def test_bounding_boxes_end_after_the_last_pixel(masks):
    assert masks.get_bounding_boxes().tensor.tolist() == [
        [4, 3, 20, 8],
        [0, 0, 1, 1],
        [1, 5, 30, 20],
        [0, 0, 0, 0],
    ]


def test_nonempty(masks):
    assert masks.nonempty().tolist() == [True, True, True, False]


def test_convention_masks_are_bool(masks):
    assert masks.tensor.dtype == torch.bool
    assert masks.image_size == (20, 30)
    assert BitMasks(np.eye(4)[None]).tensor.sum() == 4
    with pytest.raises(ValueError, match=r"\(N, H, W\), not \(4, 4\)"):
        BitMasks(torch.zeros(4, 4))


def test_an_index_selects_objects(masks):
    assert masks[2].tensor.shape == (1, 20, 30)
    assert len(masks[1:3]) == 2
    assert len(masks[masks.nonempty()]) == 3
    for item in (9, torch.zeros(6, 2, dtype=torch.bool), (0, 1)):
        with pytest.raises(IndexError):
            masks[item]


def test_iteration_cat_and_copies(masks):
    assert sum(int(bitmap.sum()) for bitmap in masks) == 80 + 1 + 2
    assert BitMasks.cat([masks, masks[:1]]).tensor.shape == (5, 20, 30)
    for copied in (copy.deepcopy(masks), pickle.loads(pickle.dumps(masks))):
        copied.tensor.zero_()
    assert masks.tensor.any()


def test_a_box_of_ones_fills_its_crop(masks, device):
    boxes = torch.tensor([[4.0, 3, 20, 8]], device=device).expand(4, 4)
    crops = masks.crop_and_resize(boxes, 14)
    assert crops.shape == (4, 14, 14) and crops.dtype == torch.bool
    assert crops[0].all() and not crops[1].any() and not crops[3].any()


def test_a_crop_of_the_whole_image_at_its_own_size_is_the_image(device):
    bits = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    boxes = torch.tensor([[0.0, 0, 16, 16]]).expand(3, 4)
    crops = BitMasks(bits.to(device)).crop_and_resize(boxes.to(device), 16)
    assert torch.equal(crops.cpu(), bits)


def test_half_a_cell_is_enough():
    half = BitMasks(torch.tensor([[[1, 0], [1, 0]]]))
    assert half.crop_and_resize(torch.tensor([[0.0, 0, 2, 2]]), 1).item() is True


def test_crops_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    masks = BitMasks(torch.rand(9, 40, 50, generator=generator) > 0.4)
    corners = torch.rand(9, 2, generator=generator) * 20
    boxes = torch.cat((corners, corners + 21.5), 1)
    together = masks.crop_and_resize(boxes, 14)
    monkeypatch.setattr(_bitmaps, "CROP_PIXELS", 5000)
    assert torch.equal(masks.crop_and_resize(boxes, 14), together)


def test_crop_and_resize_takes_no_objects():
    crops = BitMasks(torch.zeros(0, 9, 9)).crop_and_resize(torch.zeros(0, 4), 14)
    assert crops.shape == (0, 14, 14) and crops.dtype == torch.bool


class TestROIMasks:
    def test_a_mask_of_ones_fills_its_box(self, device):
        masks = ROIMasks(torch.ones(2, 28, 28, device=device))
        boxes = Boxes([[2, 3, 10, 7], [0, 0, 5, 5]]).to(device)
        bitmaps = masks.to_bitmasks(boxes, 20, 30)
        assert isinstance(bitmaps, BitMasks)
        assert_close(bitmaps.get_bounding_boxes().tensor, boxes.tensor)
        assert torch.equal(masks.to_bitmasks(boxes.tensor, 20, 30).tensor, bitmaps.tensor)

    def test_the_threshold_decides(self):
        masks, boxes = ROIMasks(torch.full((1, 8, 8), 0.4)), Boxes([[0, 0, 8, 8]])
        assert not masks.to_bitmasks(boxes, 8, 8).tensor.any()
        assert masks.to_bitmasks(boxes, 8, 8, threshold=0.3).tensor[0, 1:7, 1:7].all()

    def test_selection(self):
        masks = ROIMasks(torch.rand(5, 4, 4))
        assert len(masks[1:3]) == 2 and masks[1].tensor.shape == (1, 4, 4)
        with pytest.raises(IndexError):
            masks[(0, 1)]
        with pytest.raises(ValueError, match=r"not \(5, 1, 4, 4\)"):
            ROIMasks(torch.rand(5, 1, 4, 4))

    def test_bitmasks_are_made_with_boxes_only(self):
        masks, boxes = ROIMasks(torch.ones(1, 4, 4)), Boxes([[0, 0, 4, 4]])
        assert BitMasks.from_roi_masks(masks, 4, 4, boxes).tensor.all()
        with pytest.raises(ValueError, match="pass their boxes"):
            BitMasks.from_roi_masks(masks, 4, 4)


def test_convention_the_coco_mask_functions_are_found_in_the_module():
    assert masks_module.mask_utils is sys.modules["hotcoco"].mask
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        masks_module.nonsense  # noqa: B018


def cropped(masks):
    windows = masks.get_bounding_boxes().tensor.long().cpu()
    crops = [m[y0:y1, x0:x1].flatten() for m, (x0, y0, x1, y1) in zip(masks, windows.tolist())]
    return CroppedBitMasks(torch.cat(crops), windows, masks.image_size)


@pytest.mark.parametrize("kind", [BitMasks, cropped], ids=["whole", "cropped"])
def test_matched_proposals_share_bitmaps_until_they_are_read(masks, kind):
    rows = torch.tensor([2, 0, 0, 1, 2, -1])
    boxes = torch.tensor([[0.0, 0, 30, 20], [2, 2, 21, 9]] * 3, device=masks.device)
    expected = BitMasks(masks.tensor[rows])
    shared = (masks if kind is BitMasks else kind(masks))[rows]
    assert len(shared) == 6 and shared.device == masks.device
    assert_close(shared.crop_and_resize(boxes, 7), expected.crop_and_resize(boxes, 7))
    some = shared[torch.tensor([5, 1])]
    assert_close(
        shared[1:4].crop_and_resize(boxes[:3], 7), expected[1:4].crop_and_resize(boxes[:3], 7)
    )
    assert_close(shared.to("cpu").tensor, expected.tensor.cpu())
    assert shared._copied is None and len(shared[0]) == 1
    for item in (9, torch.tensor([[0, 1]])):
        with pytest.raises(IndexError):
            shared[item]
    assert_close(some.tensor, expected.tensor[[5, 1]])
    assert_close(shared.tensor, expected.tensor)
    shared.tensor[0] = True
    assert shared[0].tensor.all() and not masks[2].tensor.all() and len(shared) == 6
    assert_close(shared.crop_and_resize(boxes, 7)[1:], expected.crop_and_resize(boxes, 7)[1:])
    assert torch.equal(pickle.loads(pickle.dumps(some)).tensor, some.tensor)
