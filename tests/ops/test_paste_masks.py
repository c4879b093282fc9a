import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from ops_contract import generator, random_boxes

from detectron2.ops import dispatch, paste_masks


def random_masks(count, size=28, device="cpu"):
    values = torch.randn(count, size, size, generator=generator("masks", count, size)) * 2
    return values.sigmoid().to(device)


def check(kernel, masks, boxes, size, threshold):
    """Bit for bit on CPU; on a GPU the last bit of a value may differ."""
    with dispatch.use_implementation("reference"):
        expected = paste_masks(masks, boxes, size, threshold)
    with kernel.active():
        actual = paste_masks(masks, boxes, size, threshold)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    wrong = (actual != expected).sum().item()
    assert wrong <= (1e-4 * expected.numel() if kernel.implementation == "triton" else 0)
    return actual


@pytest.mark.parametrize("threshold", [-1, 0, 0.3, 0.5, 1.0])
def test_is_the_reference_bit_for_bit(kernel, count, threshold):
    masks, boxes = random_masks(count, device=kernel.device), random_boxes(count)
    check(kernel, masks, boxes.to(kernel.device), (45, 61), threshold)


@pytest.mark.parametrize("size", [(14, 14), (1, 1), (3, 9)])
def test_masks_of_any_size_match_reference(kernel, size):
    masks = torch.rand(9, *size, generator=generator("sizes")).to(kernel.device)
    check(kernel, masks, random_boxes(9, device=kernel.device), (80, 100), 0.5)


def test_every_dtype_matches_reference(kernel, dtype):
    masks = random_masks(7, 14, kernel.device).to(dtype)
    strided = torch.stack([masks, masks], dim=3)[..., 1]
    boxes = random_boxes(7, device=kernel.device)
    expected = check(kernel, masks, boxes, (50, 70), 0.5)
    assert torch.equal(check(kernel, strided, boxes, (50, 70), 0.5), expected)
    check(kernel, masks, boxes.to(dtype), (50, 70), 0.5)


@pytest.mark.parametrize("threshold", [-1, 0, 0.5])
def test_odd_boxes_match_reference(kernel, threshold):
    boxes = torch.tensor(
        [
            [5, 5, 5, 20],
            [20, 20, 5, 5],
            [-500, -500, 500, 500],
            [10.25, 10.25, 10.5, 10.5],
            [math.nan, 0, 10, 10],
            [0, 0, math.inf, 10],
            [200, 200, 300, 300],
        ],
        device=kernel.device,
    )
    check(kernel, random_masks(7, 28, kernel.device), boxes, (40, 50), threshold)


def test_convention_a_full_mask_fills_the_pixels_whose_center_is_in_the_box(kernel):
    boxes = torch.tensor([[1.0, 2.0, 4.0, 5.0], [1.6, 0.0, 3.4, 1.0]], device=kernel.device)
    with kernel.active():
        pasted = paste_masks(torch.ones(2, 28, 28, device=kernel.device), boxes, (6, 6), 0.5)
    expected = torch.zeros(2, 6, 6, dtype=torch.bool)
    expected[0, 2:5, 1:4] = True
    expected[1, 0, 2:3] = True  # the centers of pixels 1 and 3 are outside
    assert torch.equal(pasted.cpu(), expected)


def test_convention_negative_threshold_returns_soft_masks(kernel):
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]], device=kernel.device)
    masks = torch.full((1, 4, 4), 0.5, device=kernel.device)
    with kernel.active():
        soft = paste_masks(masks, boxes, (8, 8), -1)
    assert soft.dtype == torch.uint8 and soft[0, 4, 4].item() == 127


MEASURE = """
import resource, sys, torch
from detectron2.ops import paste_masks
torch.set_num_threads(1)
random = torch.Generator().manual_seed(0)
corner = torch.rand(60, 2, generator=random) * 1200
boxes = torch.cat([corner, corner + 400 * torch.rand(60, 2, generator=random)], 1)
paste_masks(torch.ones(1, 28, 28), boxes[:1], (10, 10))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pasted = paste_masks(torch.ones(60, 28, 28), boxes, (1600, 1600))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is POSIX only")
def test_memory_is_at_most_a_quarter_of_float_masks():
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    assert int(run.stdout) * unit < 60 * 1600 * 1600 * 4 / 4


def test_torch_op_is_registered_correctly(kernel):
    masks, boxes = random_masks(3, 28, kernel.device), random_boxes(3, device=kernel.device)
    with kernel.active():
        torch.library.opcheck(torch.ops.detectron2.paste_masks, (masks, boxes, 20, 30, 0.5))
        torch.library.opcheck(torch.ops.detectron2.paste_masks, (masks, boxes, 20, 30, -1.0))


def test_wrong_arguments_are_named():
    masks, boxes = torch.zeros(3, 28, 28), torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"masks has shape \(2, 28, 28\) for 3 boxes"):
        paste_masks(masks[:2], boxes, (8, 8))
    with pytest.raises(TypeError, match="masks has dtype torch.bool"):
        paste_masks(masks > 0, boxes, (8, 8))
    with pytest.raises(ValueError, match=r"image_size is \(8, -1\)"):
        paste_masks(masks, boxes, (8, -1))


def test_sizes_may_be_integers_of_numpy():
    masks, boxes = torch.ones(1, 4, 4), torch.tensor([[1.0, 1, 5, 5]])
    pasted = paste_masks(masks, boxes, (np.int64(6), np.int32(7)))
    assert pasted.shape == (1, 6, 7)
    assert torch.equal(pasted, paste_masks(masks, boxes, (6, 7)))
