import pytest
import torch
from torch.testing import assert_close

from detectron2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from detectron2.modeling.proposal_generator.rrpn import find_top_rrpn_proposals
from detectron2.structures import Boxes, Instances, RotatedBoxes

SETTINGS = {
    "nms_thresh": 0.5,
    "pre_nms_topk": 10,
    "post_nms_topk": 10,
    "min_box_size": 0.0,
    "training": False,
}


def find(boxes, logits, sizes=((100, 200),), **settings):
    return find_top_rpn_proposals(
        [torch.tensor(level) for level in boxes],
        [torch.tensor(level) for level in logits],
        list(sizes),
        **{**SETTINGS, **settings},
    )


def test_proposals_come_by_descending_logit_and_clipped():
    (found,) = find([[[[-5.0, -5, 20, 20], [150, 50, 300, 120]]]], [[[1.0, 2.0]]])
    assert_close(found.proposal_boxes.tensor, torch.tensor([[150.0, 50, 200, 100], [0, 0, 20, 20]]))
    assert found.objectness_logits.tolist() == [2.0, 1.0]
    assert found.image_size == (100, 200)
    assert sorted(found.get_fields()) == ["objectness_logits", "proposal_boxes"]


def test_each_image_has_its_own_border_and_its_own_choice():
    box = [[0.0, 0, 80, 90]]
    first, second = find([[box, box]], [[[1.0], [3.0]]], sizes=[(100, 200), (40, 30)])
    assert first.proposal_boxes.tensor.tolist() == [[0, 0, 80, 90]]
    assert second.proposal_boxes.tensor.tolist() == [[0, 0, 30, 40]]
    assert second.objectness_logits.tolist() == [3.0]


def test_boxes_suppress_each_other_within_a_level_only():
    same = [[[0.0, 0, 10, 10], [0, 0, 10, 11]]]
    (found,) = find([same, same], [[[1.0, 2.0]], [[4.0, 3.0]]])
    assert found.objectness_logits.tolist() == [4.0, 2.0]


def test_boxes_of_one_image_do_not_suppress_those_of_another():
    same = [[[0.0, 0, 10, 10]]] * 2  # one box in each of two images
    results = find([same, same], [[[1.0], [2.0]], [[3.0], [4.0]]], sizes=[(100, 200)] * 2)
    assert [found.objectness_logits.tolist() for found in results] == [[3, 1], [4, 2]]


def test_only_the_best_of_a_level_enter_and_only_the_best_of_all_leave():
    apart = [[[x * 20.0, 0, x * 20 + 10, 10] for x in range(4)]]
    logits = [[[1.0, 4.0, 2.0, 3.0]], [[8.0, 5.0, 7.0, 6.0]]]
    (found,) = find([apart, apart], logits, pre_nms_topk=3)
    assert found.objectness_logits.tolist() == [8, 7, 6, 4, 3, 2]
    (found,) = find([apart, apart], logits, pre_nms_topk=3, post_nms_topk=4)
    assert found.objectness_logits.tolist() == [8, 7, 6, 4]


def test_small_boxes_are_dropped_after_clipping():
    boxes = [[[[0.0, 0, 5, 50], [195, 0, 260, 50], [0, 0, 6, 6]]]]
    (found,) = find(boxes, [[[1.0, 2.0, 3.0]]], min_box_size=5.0)
    assert found.proposal_boxes.tensor.tolist() == [[0, 0, 6, 6]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_dropped_or_stop_training(bad):
    boxes = [[[[0.0, 0, 10, 10], [20, 20, 30, bad], [40, 40, 50, 50]]]]
    logits = [[[1.0, 2.0, bad]]]
    (found,) = find(boxes, logits)
    assert found.objectness_logits.tolist() == [1.0]
    with pytest.raises(FloatingPointError, match="2 of 3 predicted proposals are infinite or NaN"):
        find(boxes, logits, training=True)


def test_no_candidate_at_all():
    (found,) = find([[[[0.0, 0, 0, 0]]]], [[[1.0]]])
    assert len(found) == 0
    assert found.proposal_boxes.tensor.shape == (0, 4)


def test_inputs_are_left_as_they_are():
    boxes, logits = torch.tensor([[[-5.0, -5, 20, 20]]]), torch.tensor([[1.0]])
    find_top_rpn_proposals([boxes], [logits], [(10, 10)], **SETTINGS)
    assert boxes.tolist() == [[[-5, -5, 20, 20]]]


def test_rotated_proposals_are_chosen_alike():
    boxes = [
        torch.tensor(
            [
                [
                    [50.0, 50, 20, 10, 30],
                    [50, 50, 20, 10, 210],
                    [50, 50, 20, 10, 120],
                    [9, 9, 0, 4, 0],
                ]
            ]
        )
    ]
    logits = [torch.tensor([[1.0, 2.0, 3.0, 4.0]])]
    (found,) = find_top_rrpn_proposals(boxes, logits, [(100, 100)], **SETTINGS)
    # 30 and 210 degrees are one box, 120 is another, and the last one is empty.
    assert found.objectness_logits.tolist() == [3.0, 2.0]
    assert isinstance(found.proposal_boxes, RotatedBoxes)


def test_rotated_values_that_are_not_finite_are_dropped_or_stop_training():
    boxes = [torch.tensor([[[50.0, 50, 20, 10, 30], [50, float("nan"), 20, 10, 30]]])]
    logits = [torch.tensor([[1.0, 2.0]])]
    (found,) = find_top_rrpn_proposals(boxes, logits, [(100, 100)], **SETTINGS)
    assert found.objectness_logits.tolist() == [1.0]
    with pytest.raises(FloatingPointError, match="1 of 2"):
        find_top_rrpn_proposals(boxes, logits, [(100, 100)], **{**SETTINGS, "training": True})


def proposals():
    return Instances(
        (50, 60),
        proposal_boxes=Boxes(torch.tensor([[0.0, 0, 5, 5]])),
        objectness_logits=torch.tensor([0.5]),
    )


def ground_truth(**fields):
    return Instances(
        (50, 60), gt_boxes=Boxes(torch.tensor([[1.0, 1, 9, 9], [2, 2, 8, 8]])), **fields
    )


@pytest.mark.parametrize("gt", [ground_truth(gt_classes=torch.ones(2)), ground_truth().gt_boxes])
def test_ground_truth_is_appended_as_certain(gt):
    (joined,) = add_ground_truth_to_proposals([gt], [proposals()])
    assert joined.proposal_boxes.tensor.tolist() == [[0, 0, 5, 5], [1, 1, 9, 9], [2, 2, 8, 8]]
    assert joined.objectness_logits[0] == 0.5
    assert (joined.objectness_logits[1:].sigmoid() == 1).all()
    assert sorted(joined.get_fields()) == ["objectness_logits", "proposal_boxes"]


def test_ground_truth_must_have_the_fields_of_its_proposals():
    scored = proposals()
    scored.depth = torch.ones(1)
    with pytest.raises(AssertionError, match=r"fields \['depth'\], which the ground truth lacks"):
        add_ground_truth_to_proposals([ground_truth()], [scored])
    (joined,) = add_ground_truth_to_proposals([ground_truth(depth=torch.zeros(2))], [scored])
    assert joined.depth.tolist() == [1, 0, 0]


def test_ground_truth_of_other_images_is_refused():
    with pytest.raises(AssertionError, match="2 images and proposals for 1"):
        add_ground_truth_to_proposals([ground_truth()] * 2, [proposals()])
