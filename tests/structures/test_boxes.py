import copy
import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectron2.structures import (
    Boxes,
    BoxMode,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detectron2.structures.boxes import matched_pairwise_iou, pairwise_intersection


@pytest.fixture
def boxes(device):
    return Boxes(torch.tensor([[0.0, 0, 10, 5], [20, 10, 30, 40], [7, 7, 7, 9]], device=device))


class TestBoxes:
    def test_convention_area_has_no_plus_one(self, boxes):
        assert boxes.area().tolist() == [50.0, 300.0, 0.0]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64])
    def test_convention_coordinates_are_float32(self, dtype):
        assert Boxes(torch.ones(2, 4, dtype=dtype)).tensor.dtype == torch.float32

    @pytest.mark.parametrize("nothing", [[], np.zeros((0, 4)), torch.zeros(0), torch.zeros(0, 7)])
    def test_without_elements_any_shape_is_no_boxes(self, nothing):
        boxes = Boxes(nothing)
        assert boxes.tensor.shape == (0, 4)
        assert len(boxes) == 0
        assert boxes.area().shape == (0,)

    def test_a_wrong_shape_is_named_in_the_error(self):
        with pytest.raises(AssertionError, match=r"\(N, 4\), not \(3, 5\)"):
            Boxes(torch.zeros(3, 5))

    def test_clip_moves_corners_onto_the_border(self, device):
        boxes = Boxes(torch.tensor([[-5.0, 2, 50, 90], [60, 1, 70, 3]], device=device))
        boxes.clip((30, 40))
        assert boxes.tensor.tolist() == [[0, 2, 40, 30], [40, 1, 40, 3]]

    @pytest.mark.parametrize("bad", [float("inf"), float("nan")])
    def test_clip_refuses_what_is_not_finite(self, boxes, bad):
        boxes.tensor[1, 2] = bad
        with pytest.raises(AssertionError, match="infinite or NaN"):
            boxes.clip((30, 40))

    def test_clip_and_scale_leave_the_given_tensor_alone(self):
        given = torch.tensor([[-1.0, 0, 10, 20]])
        boxes = Boxes(given)
        boxes.clip((5, 5))
        boxes.scale(2, 3)
        assert given.tolist() == [[-1.0, 0, 10, 20]]
        assert boxes.tensor.tolist() == [[0, 0, 10, 15]]

    def test_clip_and_scale_are_differentiable(self):
        corners = torch.tensor([[1.0, 1, 9, 9]], requires_grad=True)
        boxes = Boxes(corners)
        boxes.clip((5, 20))
        boxes.scale(2.0, 3.0)
        boxes.tensor.sum().backward()
        assert corners.grad.tolist() == [[2.0, 3.0, 2.0, 0.0]]

    def test_clip_compiles_without_a_graph_break(self):
        def area_inside(corners):
            boxes = Boxes(corners)
            boxes.clip((30, 40))
            return boxes.area()

        corners = torch.tensor([[-5.0, 2, 50, 90]])
        compiled = torch.compile(area_inside, backend="eager", fullgraph=True)
        assert_close(compiled(corners), area_inside(corners))

    def test_scale_multiplies_x_and_y(self, boxes):
        boxes.scale(0.5, 2.0)
        assert boxes.tensor[1].tolist() == [10, 20, 15, 80]

    def test_nonempty_needs_both_sides_above_the_threshold(self, boxes):
        assert boxes.nonempty().tolist() == [True, True, False]
        assert boxes.nonempty(threshold=5.0).tolist() == [False, True, False]

    def test_inside_box_excludes_the_far_border_and_allows_a_margin(self, boxes):
        assert boxes.inside_box((41, 31)).tolist() == [True, True, True]
        assert boxes.inside_box((40, 31)).tolist() == [True, False, True]
        assert boxes.inside_box((40, 31), boundary_threshold=1).tolist() == [True, True, True]

    def test_centers(self, boxes):
        assert boxes.get_centers().tolist() == [[5, 2.5], [25, 25], [7, 8]]

    def test_quirk_a_single_index_keeps_the_first_dimension(self, boxes):
        assert boxes[1].tensor.tolist() == [[20, 10, 30, 40]]
        assert boxes[-1].tensor.tolist() == [[7, 7, 7, 9]]
        assert boxes[np.int64(1)].tensor.tolist() == [[20, 10, 30, 40]]

    def test_indices_slices_and_masks_select_rows(self, boxes):
        assert len(boxes[0:2]) == 2
        assert boxes[torch.tensor([2, 0, 0])].tensor[:, 0].tolist() == [7, 0, 0]
        assert boxes[boxes.area() > 60].tensor[:, 0].tolist() == [20]

    @pytest.mark.parametrize("item", [7, (0, 1), (slice(None), None)])
    def test_what_selects_no_rows_is_an_index_error(self, boxes, item):
        with pytest.raises(IndexError):
            boxes[item]

    def test_cat_keeps_order_device_and_class(self, boxes, device):
        joined = Boxes.cat([boxes, boxes[:1]])
        assert joined.tensor[:, 0].tolist() == [0, 20, 7, 0]
        assert joined.device.type == device.type
        assert Boxes.cat([]).tensor.shape == (0, 4)

    def test_iteration_gives_rows(self, boxes):
        assert [row.tolist() for row in boxes] == boxes.tensor.tolist()

    def test_copies_are_independent(self, boxes):
        for copied in (boxes.clone(), copy.deepcopy(boxes), pickle.loads(pickle.dumps(boxes))):
            copied.tensor.zero_()
        assert boxes.tensor.sum() > 0

    def test_convention_pickles_name_the_public_module(self):
        assert Boxes.__module__ == "detectron2.structures.boxes"


class TestPairs:
    def test_iou_of_boxes_that_anyone_can_check(self, device):
        one = Boxes(torch.tensor([[0.0, 0, 10, 10]], device=device))
        many = Boxes(
            torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 5, 5], [20, 0, 30, 9]])
        ).to(device)
        assert_close(pairwise_iou(one, many).cpu(), torch.tensor([[1, 1 / 3, 0.25, 0]]))
        assert_close(pairwise_ioa(one, many).cpu(), torch.tensor([[1, 0.5, 1, 0]]))
        assert pairwise_intersection(one, many).tolist() == [[100, 50, 25, 0]]

    def test_degenerate_boxes_overlap_nothing(self):
        flat = Boxes(torch.tensor([[5.0, 5, 5, 5], [9, 9, 4, 4]]))
        assert pairwise_iou(flat, flat).tolist() == [[0, 0], [0, 0]]
        assert pairwise_ioa(flat, flat).tolist() == [[0, 0], [0, 0]]
        assert matched_pairwise_iou(flat, flat).tolist() == [0, 0]

    def test_matched_iou_is_the_diagonal(self, generator):
        corners = torch.rand(20, 2, generator=generator) * 50
        first = Boxes(torch.cat((corners, corners + 20), 1))
        second = Boxes(torch.cat((corners + 3, corners + 30), 1))
        assert_close(matched_pairwise_iou(first, second), pairwise_iou(first, second).diagonal())
        with pytest.raises(AssertionError, match="20 boxes cannot be matched with 3"):
            matched_pairwise_iou(first, second[:3])

    def test_no_boxes_give_no_pairs(self):
        some, none = Boxes(torch.ones(3, 4)), Boxes([])
        assert pairwise_iou(some, none).shape == (3, 0)
        assert pairwise_ioa(none, some).shape == (0, 3)

    def test_distances_to_sides_are_positive_inside(self):
        distances = pairwise_point_box_distance(
            torch.tensor([[2.0, 3.0], [-1.0, 3.0]]), Boxes([[0, 0, 10, 20]])
        )
        assert distances.tolist() == [[[2, 3, 8, 17]], [[-1, 3, 11, 17]]]


class TestBoxMode:
    @pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
    @pytest.mark.parametrize(
        ("from_mode", "to_mode", "box", "expected"),
        [
            (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, [5.0, 6, 20, 33], [5, 6, 15, 27]),
            (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS, [5.0, 6, 15, 27], [5, 6, 20, 33]),
            (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS, [5.0, 6, 15, 27], [12.5, 19.5, 15, 27, 0]),
            (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS, [50.0, 30, 40, 20, 90], [40, 10, 60, 50]),
        ],
    )
    def test_conversions_keep_the_container(self, kind, from_mode, to_mode, box, expected):
        box = kind(box)
        converted = BoxMode.convert(box, from_mode, to_mode)
        assert type(converted) is type(box)
        assert [float(number) for number in converted] == pytest.approx(expected)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
    def test_arrays_of_boxes_keep_their_dtype(self, dtype):
        boxes = np.array([[[1, 2, 3, 4]], [[5, 6, 7, 8]]], dtype=dtype)
        converted = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        assert converted.dtype == dtype
        assert converted.tolist() == [[[1, 2, 4, 6]], [[5, 6, 12, 14]]]

    def test_a_list_of_integers_stays_one(self):
        converted = BoxMode.convert([1, 2, 3, 4], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        assert [type(number) for number in converted] == [int] * 4

    def test_equal_modes_return_the_box_itself(self):
        box = [1.0, 2, 3, 4]
        assert BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYXY_ABS) is box

    def test_modes_may_be_the_integers_of_a_dataset_file(self):
        assert BoxMode.convert([1, 2, 3, 4], 1, 0) == [1, 2, 4, 6]

    def test_convention_values_are_those_of_dataset_files(self):
        assert [int(mode) for mode in BoxMode] == [0, 1, 2, 3, 4]
        assert BoxMode.XYWHA_ABS == 4

    def test_impossible_conversions_are_refused(self):
        with pytest.raises(AssertionError, match="use XYXY_ABS"):
            BoxMode.convert([0.1] * 4, BoxMode.XYXY_REL, BoxMode.XYXY_ABS)
        with pytest.raises(NotImplementedError, match="from XYXY_ABS to XYWHA_ABS"):
            BoxMode.convert([1.0] * 4, BoxMode.XYXY_ABS, BoxMode.XYWHA_ABS)
        with pytest.raises(AssertionError, match="4 coordinates, this one has 5"):
            BoxMode.convert([1.0] * 5, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
