import numpy as np
import pytest
import torch
from ops_contract import generator, random_boxes

from detectron2.ops import dispatch, mask_runs, paste_masks


def random_masks(count, size=28):
    values = torch.randn(count, size, size, generator=generator("runs", count, size)) * 2
    return values.sigmoid()


def drawn_and_encoded(masks, boxes, size, threshold=0.5):
    """Run lengths of full images, by COCO's codec."""
    from hotcoco import mask as codec

    with dispatch.use_implementation("reference"):
        pasted = paste_masks(masks, boxes, size, threshold)
    return [codec.encode(mask.numpy())["counts"] for mask in pasted], pasted.sum(dim=(1, 2))


def check(masks, boxes, size, threshold=0.5):
    expected, areas = drawn_and_encoded(masks, boxes, size, threshold)
    for implementation in ("reference", "numba"):
        with dispatch.use_implementation(implementation):
            counts, got_areas = mask_runs(masks, boxes, size, threshold)
        assert counts == expected
        assert torch.equal(got_areas, areas)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_convention_run_lengths_are_those_of_the_drawn_masks_bit_for_bit(count, threshold):
    check(random_masks(count), random_boxes(count), (45, 61), threshold)


def test_blobs_in_a_large_image_match():
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    blob = torch.from_numpy(1 / (1 + np.exp(6 * (x**2 + y**2) - 3))).float()
    check(blob.expand(40, 28, 28), random_boxes(40, 700.0), (480, 640))


def test_runs_that_touch_over_the_border_of_columns_are_one():
    full = torch.ones(1, 4, 4)
    check(full, torch.tensor([[-50.0, -50.0, 60.0, 60.0]]), (7, 9))  # every pixel
    check(full, torch.tensor([[3.0, -50.0, 6.0, 60.0]]), (7, 9))  # whole columns
    check(full, torch.tensor([[3.0, 0.0, 6.0, 4.0]]), (7, 9))


def test_odd_boxes_are_drawn_as_nothing_or_cut():
    boxes = [
        [5, 5, 5, 20],
        [20, 20, 5, 5],
        [-500, -500, 500, 500],
        [10.25, 10.25, 10.5, 10.5],
        [float("nan"), 0, 10, 10],
        [0, 0, float("inf"), 10],
        [200, 200, 300, 300],
    ]
    check(random_masks(len(boxes), 14), torch.tensor(boxes, dtype=torch.float32), (40, 50))


def test_masks_with_nan_match():
    masks = random_masks(3, 5)
    masks[1, 2, 2] = torch.nan
    check(masks, random_boxes(3), (40, 50))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (1, 1), (1, 40), (40, 1)])
def test_images_of_any_size_match(size):
    check(random_masks(5), random_boxes(5), size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_dtype_matches(dtype):
    masks = random_masks(7, 14).to(dtype)
    check(torch.stack([masks, masks], dim=3)[..., 1], random_boxes(7), (50, 70))


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_that_the_outside_passes_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold is"):
        mask_runs(random_masks(1), random_boxes(1), (9, 9), threshold)


def test_masks_and_boxes_come_in_pairs():
    with pytest.raises(ValueError, match="one mask per box"):
        mask_runs(random_masks(2), random_boxes(3), (9, 9))
