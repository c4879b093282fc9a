import math
from functools import partial

import pytest
import torch
from ops_contract import (
    Kernel,
    check_against_reference,
    generator,
    laid_out,
    random_boxes,
    with_images,
)

from detectron2.ops import dispatch, roi_pool


@pytest.fixture
def kernel():
    """There is no Triton kernel of this op."""
    return Kernel("numba", "cpu")


def random_map(shape, memory="contiguous", dtype=torch.float32):
    values = torch.randn(shape, generator=generator("pool", shape)).to(dtype)
    return laid_out(values, memory).requires_grad_(True)


def by_hand(features, roi, bins, scale):
    """The definition for one box, bin by bin."""
    x0, y0, x1, y1 = (math.floor(side * scale + 0.5) for side in roi)
    _, height, width = features.shape
    rows, columns = max(y1 - y0 + 1, 1) / bins, max(x1 - x0 + 1, 1) / bins
    result = torch.zeros(len(features), bins, bins)
    for i in range(bins):
        for j in range(bins):
            top = min(max(math.floor(i * rows) + y0, 0), height)
            bottom = min(max(math.ceil((i + 1) * rows) + y0, 0), height)
            left = min(max(math.floor(j * columns) + x0, 0), width)
            right = min(max(math.ceil((j + 1) * columns) + x0, 0), width)
            if top < bottom and left < right:
                result[:, i, j] = features[:, top:bottom, left:right].amax((1, 2))
    return result


@pytest.mark.parametrize("implementation", ["numba", "reference"])
def test_is_the_largest_cell_of_every_bin(implementation):
    features = random_map((1, 4, 20, 16)).detach()
    boxes = random_boxes(30, 64).clamp(min=0).double()
    rois = with_images(boxes, 1)
    with dispatch.use_implementation(implementation):
        pooled = roi_pool(features, rois, 3, 0.25)
    for box, actual in zip(boxes.tolist(), pooled, strict=True):
        assert torch.equal(actual, by_hand(features[0], box, 3, 0.25))


@pytest.mark.parametrize("implementation", ["numba", "reference"])
def test_convention_the_first_of_equal_cells_gets_the_gradient(implementation):
    features = torch.ones(1, 1, 4, 4, requires_grad=True)
    with dispatch.use_implementation(implementation):
        roi_pool(features, torch.tensor([[0.0, 1, 1, 3, 3]]), 1).sum().backward()
    assert features.grad.nonzero().tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("implementation", ["numba", "reference"])
def test_convention_halves_round_away_from_zero(implementation):
    row = torch.arange(8.0).expand(1, 1, 8, 8)
    with dispatch.use_implementation(implementation):
        pooled = roi_pool(row, torch.tensor([[0, 0, 0, 2.5, 2.5], [0, 0, 0, 3.5, 1]]), 1)
    assert pooled.flatten().tolist() == [3, 4]


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_matches_reference(kernel, count, memory):
    rois = with_images(random_boxes(count), 2)
    op = partial(roi_pool, output_size=(7, 5), spatial_scale=0.25)
    check_against_reference(op, kernel, random_map((2, 5, 24, 30), memory), rois, leaves=("input",))


@pytest.mark.parametrize("channels", [1, 33])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_matches_reference(kernel, channels, dtype, memory):
    features = random_map((2, channels, 24, 30), memory, dtype)
    rois = with_images(random_boxes(9), 2)
    op = partial(roi_pool, output_size=3, spatial_scale=0.25)
    check_against_reference(op, kernel, features, rois, leaves=("input",))


def test_odd_boxes_match_reference(kernel, memory):
    boxes = [
        [5, 5, 5, 5],
        [20, 20, 5, 5],
        [-90, -90, -50, -50],
        [500, 500, 600, 600],
        [-300, -300, 600, 600],
        [math.nan, 0, 10, 10],
        [0, 0, math.inf, 10],
    ]
    op = partial(roi_pool, output_size=(2, 3), spatial_scale=0.25)
    rois = with_images(torch.tensor(boxes), 1)
    check_against_reference(op, kernel, random_map((1, 3, 24, 30), memory), rois, leaves=("input",))


def test_torch_op_is_registered_correctly():
    features, rois = random_map((2, 3, 9, 8), "channels_last"), with_images(random_boxes(3, 30), 2)
    torch.library.opcheck(torch.ops.detectron2.roi_pool, (features, rois, 3, 2, 0.25))
    grad = torch.randn(3, 3, 3, 2)
    arguments = (grad, features.detach(), rois, 0.25)
    torch.library.opcheck(torch.ops.detectron2.roi_pool_backward, arguments)


def test_backward_reference_is_the_gradient_of_the_reference():
    features, rois = random_map((2, 3, 9, 8)), with_images(random_boxes(6, 30), 2)
    with dispatch.use_implementation("reference"):
        pooled = roi_pool(features, rois, 3, 0.25)
        grad = torch.randn(pooled.shape, generator=generator("grad"))
        (expected,) = torch.autograd.grad(pooled, features, grad)
        actual = torch.ops.detectron2.roi_pool_backward(grad, features.detach(), rois, 0.25)
    torch.testing.assert_close(actual, expected)


def test_a_second_gradient_is_refused():
    features, rois = random_map((2, 3, 9, 8)), with_images(random_boxes(6, 30), 2)
    pooled = roi_pool(features, rois, 3, 0.25)
    (gradient,) = torch.autograd.grad((pooled**2).sum(), features, create_graph=True)
    with pytest.raises(NotImplementedError, match="roi_pool has no second gradient"):
        gradient.sum().backward()


def test_wrong_arguments_are_named():
    features, rois = torch.zeros(2, 3, 8, 8), torch.zeros(1, 5)
    with pytest.raises(ValueError, match=r"rois has shape \(1, 4\); expected \(K, 5\)"):
        roi_pool(features, rois[:, 1:], 7)
    with pytest.raises(ValueError, match="rois name images 3 to 3"):
        roi_pool(features, rois + 3, 7)
