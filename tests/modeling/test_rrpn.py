import torch
from torch.testing import assert_close

from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RRPN
from detectron2.structures import RotatedBoxes, pairwise_iou_rotated


def test_of_anchors_around_an_object_only_the_nearest_are_its_best():
    # Inside of all four anchors the object has the same IoU with each of them. The first and the
    # last are one and the same rectangle, written in two ways.
    gt = RotatedBoxes(torch.tensor([[50.0, 50, 20, 10, 30]]))
    anchors = RotatedBoxes(
        torch.tensor([[52.0, 50, 60, 40, 0], [56, 50, 60, 40, 0], [44, 53, 60, 40, 0]])
    )
    same = RotatedBoxes(torch.tensor([[52.0, 50, 40, 60, 90]]))
    anchors = RotatedBoxes.cat([anchors, same])
    overlaps = RRPN._pairwise_iou(None, gt, anchors)
    assert_close(overlaps, pairwise_iou_rotated(gt, anchors), atol=2e-6, rtol=0)
    _, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(overlaps)
    assert labels.tolist() == [1, 0, 0, 1]


def test_an_anchor_that_does_not_overlap_stays_at_zero():
    gt = RotatedBoxes(torch.tensor([[50.0, 50, 20, 10, 30]]))
    far = RotatedBoxes(torch.tensor([[500.0, 50, 20, 10, 30]]))
    assert RRPN._pairwise_iou(None, gt, far).tolist() == [[0.0]]
