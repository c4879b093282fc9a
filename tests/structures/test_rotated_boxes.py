import math

import pytest
import torch
from torch.testing import assert_close

from detectron2.structures import Boxes, BoxMode, RotatedBoxes, pairwise_iou, pairwise_iou_rotated


@pytest.fixture
def boxes(generator):
    numbers = torch.rand(50, 5, generator=generator)
    return RotatedBoxes(numbers * torch.tensor([90.0, 90, 40, 20, 700]) + 1)


def corners_of(boxes):
    """(N, 4, 2) corners, in the order of the unit square."""
    x, y, width, height, angle = boxes.tensor.double().unbind(1)
    theta = angle * math.pi / 180
    along = torch.stack((theta.cos(), -theta.sin()), 1) * width[:, None] / 2
    down = torch.stack((theta.sin(), theta.cos()), 1) * height[:, None] / 2
    center = torch.stack((x, y), 1)
    return torch.stack([center + s * along + t * down for s in (-1, 1) for t in (-1, 1)], 1)


def test_convention_angles_turn_counter_clockwise_in_the_image(device):
    # A long flat box, turned by 30 degrees: its right end moves up, to smaller y.
    box = RotatedBoxes(torch.tensor([[50.0, 50, 40, 2, 30]], device=device))
    right_end = corners_of(box)[0, 2:].mean(0)
    assert right_end[0] > 50 and right_end[1] < 50
    upright = BoxMode.convert(box.tensor, BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)
    assert_close(upright[0, :2].double(), corners_of(box)[0].amin(0), rtol=1e-5, atol=1e-4)


def test_it_is_a_kind_of_boxes_with_five_columns():
    assert isinstance(RotatedBoxes([]), Boxes)
    assert RotatedBoxes([]).tensor.shape == (0, 5)
    assert RotatedBoxes.cat([]).tensor.shape == (0, 5)
    with pytest.raises(AssertionError, match=r"RotatedBoxes takes .* \(N, 5\), not \(2, 4\)"):
        RotatedBoxes(torch.zeros(2, 4))


def test_selection_copies_and_cat_stay_rotated(boxes):
    for result in (boxes[3], boxes[2:4], boxes.clone(), boxes.to("cpu"), RotatedBoxes.cat([boxes])):
        assert type(result) is RotatedBoxes


def test_area_is_width_times_height(boxes):
    assert_close(boxes.area(), boxes.tensor[:, 2] * boxes.tensor[:, 3])


def test_angles_are_normalised_into_the_half_open_circle():
    boxes = RotatedBoxes([[0, 0, 1, 1, angle] for angle in (180.0, -180, 540, 359, -190, 0)])
    boxes.normalize_angles()
    assert boxes.tensor[:, 4].tolist() == [-180, -180, -180, -1, 170, 0]


def test_inside_box_looks_at_the_corners(boxes):
    corners = corners_of(boxes)
    expected = ((corners >= 0) & (corners < 80)).all(2).all(1)
    assert 0 < expected.sum() < len(boxes)
    assert torch.equal(boxes.inside_box((80, 80)), expected)


def test_inside_box_allows_a_margin():
    box = RotatedBoxes([[10.0, 10, 24, 2, 0]])
    assert box.inside_box((40, 40)).tolist() == [False]
    assert box.inside_box((40, 40), boundary_threshold=2).tolist() == [True]


def test_clip_cuts_upright_boxes_and_leaves_turned_ones():
    boxes = RotatedBoxes([[5.0, 5, 20, 4, 0.5], [5, 5, 20, 4, 10], [5, 5, 4, 4, 360]])
    boxes.clip((30, 30))
    expected = [[7.5, 5, 15, 4, 0.5], [5, 5, 20, 4, 10], [5, 5, 4, 4, 0]]
    assert_close(boxes.tensor, torch.tensor(expected))
    boxes.clip((30, 30), clip_angle_threshold=45)
    assert_close(boxes.tensor[1], torch.tensor([7.5, 5, 15, 4, 10]))


def test_nonempty_looks_at_width_and_height_only():
    boxes = RotatedBoxes([[0.0, 0, 3, 3, 0], [0, 0, 3, 1, 0], [9, 9, 0, 5, 0]])
    assert boxes.nonempty(1.0).tolist() == [True, False, False]


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_equal_scale_factors_scale_the_corners(boxes, factor):
    expected = corners_of(boxes) * factor
    boxes.scale(factor, factor)
    assert_close(corners_of(boxes), expected, rtol=1e-4, atol=1e-3)


def test_unequal_scale_factors_keep_side_lengths_and_the_direction_of_the_height(boxes):
    before = corners_of(boxes) * torch.tensor([2.0, 0.7])
    boxes.scale(2.0, 0.7)
    after = corners_of(boxes)
    for first, second in ((0, 2), (0, 1)):  # along the width, along the height
        lengths = (before[:, first] - before[:, second]).norm(dim=1)
        assert_close(
            (after[:, first] - after[:, second]).norm(dim=1), lengths, rtol=1e-4, atol=1e-3
        )
    down = after[:, 1] - after[:, 0]
    assert_close(down, before[:, 1] - before[:, 0], rtol=1e-4, atol=1e-3)


def test_iou_at_angle_zero_is_that_of_upright_boxes(boxes):
    boxes.tensor[:, 4] = 0
    upright = Boxes(BoxMode.convert(boxes.tensor, BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS))
    assert_close(
        pairwise_iou_rotated(boxes, boxes), pairwise_iou(upright, upright), rtol=1e-3, atol=1e-4
    )


def test_iou_of_a_square_turned_by_45_degrees():
    # The overlap of a unit square with its turned copy is a regular octagon.
    square, turned = RotatedBoxes([[0.0, 0, 1, 1, 0]]), RotatedBoxes([[0.0, 0, 1, 1, 45]])
    octagon = 2 * (math.sqrt(2) - 1)
    iou = pairwise_iou_rotated(square, turned).item()
    assert iou == pytest.approx(octagon / (2 - octagon), abs=1e-4)
