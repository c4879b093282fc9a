import math

import pytest
import torch
from ops_contract import assert_close, check_against_reference, generator, random_rotated_boxes

from detectron2.ops import box_iou, box_iou_rotated, dispatch


@pytest.fixture(params=["numba", "reference"])
def implementation(request):
    with dispatch.use_implementation(request.param):
        yield request.param


either = pytest.mark.usefixtures("implementation")


def corners(box):
    """Corners in order; the angle turns counter-clockwise on the screen, y points down."""
    x, y, width, height, angle = box
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    wide_x, wide_y, high_x, high_y = width * cos, -width * sin, height * sin, height * cos
    return [
        (x + (p * wide_x + q * high_x) / 2, y + (p * wide_y + q * high_y) / 2)
        for p, q in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def area(polygon):
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in pairs)) / 2


def clipped(polygon, start, end):
    """The part of a polygon to the left of a line (Sutherland and Hodgman, 1974)."""

    def side(point):
        across = (end[0] - start[0]) * (point[1] - start[1])
        return across - (end[1] - start[1]) * (point[0] - start[0])

    result = []
    for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        da, db = side(a), side(b)
        if da >= 0:
            result.append(a)
        if da * db < 0:
            t = da / (da - db)
            result.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
    return result


def iou_by_clipping(first, second):
    polygon, window = corners(first), corners(second)
    for start, end in zip(window, window[1:] + window[:1], strict=True):
        polygon = clipped(polygon, start, end)
        if not polygon:
            return 0.0
    common = area(polygon)
    return common / (first[2] * first[3] + second[2] * second[3] - common)


@either
def test_is_the_area_of_clipped_polygons():
    boxes1 = random_rotated_boxes(30, 40).double()
    boxes2 = random_rotated_boxes(40, 40, seed=1).double()
    boxes2[:10, 4] = torch.arange(10) * 90 - 360  # along the axes, and parallel
    boxes1[:10, 4] = torch.arange(10) * 45
    expected = [[iou_by_clipping(a, b) for b in boxes2.tolist()] for a in boxes1.tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert (expected > 0).float().mean() > 0.1
    torch.testing.assert_close(box_iou_rotated(boxes1, boxes2), expected, rtol=1e-9, atol=1e-12)


@either
@pytest.mark.parametrize(
    ("box", "other", "expected"),
    [
        ([50, 50, 20, 10, 0], [50, 50, 20, 10, 0], 1),
        ([50, 50, 20, 10, 0], [50, 50, 10, 20, 90], 1),
        ([50, 50, 20, 10, 0], [50, 50, 20, 10, 180], 1),
        ([50, 50, 20, 10, 33], [50, 50, 20, 10, 33 - 720], 1),
        ([50, 50, 20, 10, 0], [60, 50, 20, 10, 0], 1 / 3),
        ([50, 50, 20, 10, 0], [70, 50, 20, 10, 0], 0),  # they touch
        ([0, 0, 2, 2, 0], [0, 0, 2, 2, 45], 1 / math.sqrt(2)),  # an octagon
        ([0, 0, 4, 1, 20], [0, 0, 4, 1, 110], 1 / 7),  # a cross
        ([0, 0, 10, 10, 5], [1, 1, 2, 2, 70], 0.04),  # one within the other
        ([50, 50, 20, 10, 0], [50, 50, 0, 0, 0], 0),
        ([50, 50, 20, 10, 0], [1e4, 1e4, 20, 10, 45], 0),
    ],
)
def test_values_a_person_can_check(box, other, expected):
    first, second = torch.tensor([box], dtype=torch.float64), torch.tensor([other]).double()
    assert box_iou_rotated(first, second).item() == pytest.approx(expected, abs=1e-12)
    assert box_iou_rotated(second, first).item() == pytest.approx(expected, abs=1e-12)
    # In float32 the angle and the corners round, nothing more.
    assert box_iou_rotated(first.float(), second.float()).item() == pytest.approx(
        expected, abs=1e-5
    )


@either
def test_boxes_far_from_the_origin_lose_no_precision():
    boxes = random_rotated_boxes(20, 40).double()
    moved = boxes + torch.tensor([2.0**20, -(2.0**20), 0, 0, 0]).double()
    torch.testing.assert_close(
        box_iou_rotated(moved, moved), box_iou_rotated(boxes, boxes), rtol=1e-6, atol=1e-9
    )


@either
def test_upright_boxes_have_the_iou_of_upright_boxes():
    boxes = random_rotated_boxes(50, 60)
    boxes[:, 4] = 0
    center, half = boxes[:, :2], boxes[:, 2:4] / 2
    upright = torch.cat([center - half, center + half], 1)
    assert_close(box_iou_rotated(boxes, boxes), box_iou(upright, upright))


def test_matches_reference(kernel, count):
    first = random_rotated_boxes(count, device=kernel.device)
    second = random_rotated_boxes(23, device=kernel.device, seed=1)
    actual = check_against_reference(box_iou_rotated, kernel, first, second)
    with dispatch.use_implementation("reference"):
        expected = box_iou_rotated(first, second)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


def test_matches_reference_where_many_overlap(kernel):
    # More than one tile, and tiles that end in the middle.
    first = random_rotated_boxes(19, 30, kernel.device)
    second = random_rotated_boxes(67, 30, kernel.device, seed=1)
    first[:5, 4], second[:5, 4] = 0, torch.arange(5, device=kernel.device) * 90.0
    actual = check_against_reference(box_iou_rotated, kernel, first, second)
    assert (actual > 0).float().mean() > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_matches_reference(kernel, dtype):
    boxes = random_rotated_boxes(9, device=kernel.device).to(dtype)
    strided = torch.stack([boxes, boxes], 2)[:, :, 0]
    actual = check_against_reference(box_iou_rotated, kernel, strided, strided)
    assert actual.dtype == dtype


@either
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("column", range(5))
def test_convention_boxes_that_are_not_finite_overlap_nothing(column, bad):
    boxes = torch.tensor([[5.0, 5, 4, 4, 30]]).repeat(2, 1)
    boxes[1, column] = bad
    assert box_iou_rotated(boxes, boxes).tolist() == [[pytest.approx(1), 0], [0, 0]]


def test_boxes_that_are_not_finite_or_empty_match_reference(kernel):
    boxes = torch.tensor([[5.0, 5, 4, 4, 30]], device=kernel.device).repeat(14, 1)
    for column in range(5):
        boxes[column, column], boxes[5 + column, column] = math.nan, math.inf
    boxes[10, 2], boxes[11, 3], boxes[12, 2] = 0, -2, 1e-9
    check_against_reference(box_iou_rotated, kernel, boxes, boxes)


def test_torch_op_is_registered_correctly(kernel):
    boxes = random_rotated_boxes(4, device=kernel.device)
    with kernel.active():
        torch.library.opcheck(torch.ops.detectron2.box_iou_rotated, (boxes, boxes[:2]))


@either
def test_wrong_arguments_are_named():
    boxes = torch.rand(3, 5, generator=generator("wrong"))
    with pytest.raises(ValueError, match=r"boxes2 has shape \(3, 4\); expected \(N, 5\) rows of"):
        box_iou_rotated(boxes, boxes[:, 1:])
    with pytest.raises(TypeError, match="boxes1 has dtype torch.int64"):
        box_iou_rotated(boxes.long(), boxes)
