import math
from functools import partial

import numpy as np
import pytest
import torch
from ops_contract import (
    check_against_reference,
    generator,
    laid_out,
    random_boxes,
    random_rotated_boxes,
    with_images,
)

from detectron2.ops import dispatch, roi_align, roi_align_rotated


def random_map(shape, memory="contiguous", dtype=torch.float32, device="cpu"):
    values = torch.randn(shape, generator=generator("map", shape)).to(device, dtype)
    return laid_out(values, memory).requires_grad_(True)


@pytest.mark.parametrize("implementation", ["numba", "reference"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_upright_boxes_pool_like_ordinary_ones(implementation, ratio):
    features = random_map((2, 5, 24, 30))
    upright = random_boxes(20, 90)
    low, high = upright[:, :2], upright[:, 2:]
    rotated = torch.cat([(low + high) / 2, high - low, torch.zeros(20, 1)], 1)
    with dispatch.use_implementation(implementation):
        actual = roi_align_rotated(features, with_images(rotated, 2), (3, 4), 0.25, ratio)
        expected = roi_align(features, with_images(upright, 2), (3, 4), 0.25, ratio, True)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("implementation", ["numba", "reference"])
def test_convention_angles_turn_counter_clockwise(implementation):
    # Values grow downwards. Turned by 90 degrees counter-clockwise, the width of the box
    # points up: the bins from left to right then go from the bottom to the top.
    ramp = torch.arange(16.0)[:, None].expand(1, 1, 16, 16).clone()
    rois = torch.tensor([[0.0, 8, 8, 8, 4, 90]])
    with dispatch.use_implementation(implementation):
        pooled = roi_align_rotated(ramp, rois, (1, 2), 1.0, 2)
    assert pooled[0, 0, 0].tolist() == pytest.approx([9.5, 5.5], abs=1e-4)


def test_sample_positions_of_rotated_boxes_round_as_in_the_reference():
    # Also within a kernel that may fuse: Numba lets what that calls inherit the option.
    from detectron2.ops.roi_align_rotated.kernels import bins_of, gather_samples
    from detectron2.ops.roi_align_rotated.reference import (
        rotated_boxes_in_cells,
        rotated_positions,
    )

    roi_align_rotated(torch.zeros(1, 1, 4, 4), torch.zeros(1, 6), 1)
    rois = with_images(random_rotated_boxes(200), 1) + torch.tensor([0.0, 200, 200, 0, 0, 0])
    boxes = rotated_boxes_in_cells(rois, torch.float32, 1.0)
    _, y, x = rotated_positions(boxes, 3, 3, 1)
    cells, weights = np.zeros(256, np.int64), np.zeros(256, np.float32)
    for box, row, column in zip(boxes.numpy(), y.numpy(), x.numpy(), strict=True):
        samples, sides = bins_of(box, (3, 3), 1, np.float32)
        sides = tuple(np.float32(side) for side in sides)  # Numba returns Python's numbers
        for i, j in np.ndindex(3, 3):
            count, following = gather_samples(
                box, (1000, 1000), samples, sides, i, j, 0, np.float32(1), cells, weights
            )
            top, left = np.floor(row[i, j]), np.floor(column[i, j])
            down, across = row[i, j] - top, column[i, j] - left
            up, back = np.float32(1) - down, np.float32(1) - across
            assert (count, following, cells[0]) == (4, -1, top * 1000 + left)
            assert weights[:4].tolist() == [up * back, up * across, down * back, down * across]


@pytest.mark.parametrize("ratio", [0, 2])
def test_matches_reference(kernel, count, ratio, memory):
    features = random_map((2, 5, 24, 30), memory, device=kernel.device)
    rois = with_images(random_rotated_boxes(count, device=kernel.device), 2)
    op = partial(roi_align_rotated, output_size=(7, 5), spatial_scale=0.25, sampling_ratio=ratio)
    check_against_reference(op, kernel, features, rois, leaves=("input",))


@pytest.mark.parametrize("channels", [1, 33])
def test_every_dtype_matches_reference(kernel, channels, dtype):
    features = random_map((2, channels, 24, 30), "channels_last", dtype, kernel.device)
    rois = with_images(random_rotated_boxes(5, device=kernel.device), 2)
    rois = rois.double() if dtype == torch.float64 else rois
    op = partial(roi_align_rotated, output_size=3, spatial_scale=0.25, sampling_ratio=0)
    check_against_reference(op, kernel, features, rois, leaves=("input",))


@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_odd_boxes_match_reference(kernel, ratio, memory):
    boxes = [
        [0, 0, 90, 60, 30],
        [50, 40, 0, 0, 30],
        [50, 40, 10, -10, 30],
        [-90, -90, 20, 10, 45],
        [60, 50, 900, 3, 20],  # samples far outside of the map on both sides
        [60, 50, 700, 700, 45],
        [math.nan, 50, 10, 10, 0],
        [60, 50, math.inf, 10, 0],
        [60, 50, 10, 10, math.inf],
        [60, 50, 1000, 2, 90],
    ]
    features = random_map((1, 3, 24, 30), memory, device=kernel.device)
    if kernel.is_interpreted:  # a map of as many cells takes too long there
        features = random_map((1, 3, 5, 6), memory)
        boxes = boxes[2:]
    if kernel.is_hurried:
        boxes = [box for box in boxes if box[2:4] != [700, 700]]
    rois = with_images(torch.tensor(boxes, device=kernel.device), 1)
    op = partial(roi_align_rotated, output_size=(2, 3), spatial_scale=0.25, sampling_ratio=ratio)
    check_against_reference(op, kernel, features, rois, leaves=("input",))


def test_a_box_far_larger_than_the_map_does_not_hang(kernel):
    height = 3 if kernel.is_hurried else 1e8
    rois = torch.tensor([[0, 2, 2, 1e8, height, 30]], device=kernel.device)
    features = torch.ones(1, 2, 3, 3, device=kernel.device)
    with kernel.active():
        pooled = roi_align_rotated(features, rois, 2, 1.0, 0)
    assert pooled.isfinite().all() and pooled.abs().max() < 1e-6


def test_samples_on_the_map_of_a_box_that_is_mostly_off_it_are_all_read(kernel):
    features = random_map((1, 2, 8, 8), device=kernel.device)
    # Samples 5 cells apart, of which a few of 70 in a row are on the map.
    angles = [30.0] if kernel.is_interpreted else [0.0, 30.0, 135.0]
    boxes = [[4, 4, 700, 700, angle] for angle in angles]
    rois = with_images(torch.tensor(boxes, device=kernel.device), 1)
    op = partial(roi_align_rotated, output_size=2, spatial_scale=1.0, sampling_ratio=70)
    check_against_reference(op, kernel, features, rois, leaves=("input",))


def test_gradient_is_right_twice(kernel):
    shape = (1, 1, 2, 3) if kernel.is_hurried else (1, 2, 3, 4)
    features = torch.randn(shape, generator=generator("twice"), dtype=torch.float64)
    features = features.to(kernel.device).requires_grad_(True)
    rois = [[0, 2.5, 1.0, 2.2, 3.5, 30], [0, 2, 2, 3, 3, -100]]
    rois = torch.tensor(rois, dtype=torch.float64, device=kernel.device)
    rois = rois[:1] if kernel.is_interpreted else rois
    # Along one random direction in a hurry, else along every axis.
    options = {"nondet_tol": 1e-12, "fast_mode": kernel.is_hurried}
    with kernel.active():
        op = lambda one: roi_align_rotated(one, rois, (1, 2), 1.0, 2)  # noqa: E731
        assert torch.autograd.gradcheck(op, features, **options)
        assert torch.autograd.gradgradcheck(op, features, **options)


def test_torch_op_is_registered_correctly(kernel):
    features = random_map((2, 3, 9, 8), "channels_last", device=kernel.device)
    rois = with_images(random_rotated_boxes(2, 30, kernel.device), 2)
    grad = torch.randn(2, 3, 3, 2, device=kernel.device, requires_grad=True)
    ops = torch.ops.detectron2
    with kernel.active():
        torch.library.opcheck(ops.roi_align_rotated, (features, rois, 3, 2, 0.25, 1))
        torch.library.opcheck(
            ops.roi_align_rotated_backward, (grad, rois, [2, 3, 9, 8], 0.25, 1, False)
        )


def test_deterministic_algorithms_give_the_same_gradient(kernel):
    features = random_map((2, 3, 9, 8), device=kernel.device)
    rois = with_images(random_rotated_boxes(3, 30, kernel.device), 2)
    op = partial(roi_align_rotated, output_size=2, spatial_scale=0.25)
    torch.use_deterministic_algorithms(True)
    try:
        check_against_reference(op, kernel, features, rois, leaves=("input",))
    finally:
        torch.use_deterministic_algorithms(False)


def test_backward_reference_is_the_gradient_of_the_reference():
    features = random_map((2, 3, 9, 8))
    rois = with_images(random_rotated_boxes(6, 40), 2)
    with dispatch.use_implementation("reference"):
        pooled = roi_align_rotated(features, rois, 3, 0.25, 0)
        grad = torch.randn(pooled.shape, generator=generator("grad"))
        (expected,) = torch.autograd.grad(pooled, features, grad)
        actual = torch.ops.detectron2.roi_align_rotated_backward(
            grad, rois, [2, 3, 9, 8], 0.25, 0, True
        )
    torch.testing.assert_close(actual, expected)


def test_wrong_arguments_are_named():
    features, rois = torch.zeros(2, 3, 8, 8), torch.zeros(1, 6)
    with pytest.raises(ValueError, match=r"rois has shape \(1, 5\); expected \(K, 6\)"):
        roi_align_rotated(features, rois[:, 1:], 7)
    with pytest.raises(ValueError, match="rois name images 2 to 2"):
        roi_align_rotated(features, rois + 2, 7)
