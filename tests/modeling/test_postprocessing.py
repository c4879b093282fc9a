import pytest
import torch
from torch.testing import assert_close

from detectron2.modeling._forms import fixed_form
from detectron2.modeling.postprocessing import (
    detector_postprocess,
    sem_seg_postprocess,
    to_output_frames,
)
from detectron2.structures import Boxes, Instances, ROIMasks, RotatedBoxes
from host_waits import FAR, host_waits


def detections():
    found = Instances((100, 200))
    found.pred_boxes = Boxes(
        torch.tensor([[10.0, 20, 60, 80], [150, 50, 260, 120], [300, 10, 400, 20]])
    )
    found.scores = torch.tensor([0.9, 0.8, 0.7])
    found.pred_masks = torch.full((3, 1, 14, 14), 0.9)
    found.pred_keypoints = torch.tensor([[[10.0, 20, 0.5]], [[150, 50, 0.4]], [[0, 0, 0.1]]])
    return found


def test_boxes_are_scaled_and_clipped_and_empty_ones_dropped():
    output = detector_postprocess(detections(), 50, 400)
    assert output.image_size == (50, 400)
    assert output.pred_boxes.tensor.tolist() == [[20, 10, 120, 40], [300, 25, 400, 50]]
    assert_close(output.scores, torch.tensor([0.9, 0.8]))


def test_keypoints_are_scaled_but_not_their_scores():
    output = detector_postprocess(detections(), 50, 400)
    assert_close(output.pred_keypoints, torch.tensor([[[20.0, 10, 0.5]], [[300, 25, 0.4]]]))


@pytest.mark.parametrize("wrap", [lambda masks: masks, lambda masks: ROIMasks(masks[:, 0])])
def test_masks_are_pasted_at_the_size_asked_for(wrap):
    found = detections()
    found.pred_masks = wrap(found.pred_masks)
    masks = detector_postprocess(found, 50, 400).pred_masks
    assert masks.shape == (2, 50, 400)
    assert masks.dtype == torch.bool
    assert masks[0, 15:35, 25:115].all()
    assert not masks[0, :, 121:].any()


def test_mask_threshold_is_applied():
    assert not detector_postprocess(detections(), 50, 400, mask_threshold=0.95).pred_masks.any()


def test_convention_the_input_is_left_as_it_is():
    found = detections()
    before = dict(found.get_fields())
    boxes, keypoints = found.pred_boxes.tensor.clone(), found.pred_keypoints.clone()
    detector_postprocess(found, 50, 400)
    assert found.get_fields() == before
    assert_close(found.pred_boxes.tensor, boxes)
    assert_close(found.pred_keypoints, keypoints)


def test_proposals_are_rescaled_too():
    proposals = Instances((10, 10), proposal_boxes=Boxes([[1.0, 2, 3, 4]]))
    output = detector_postprocess(proposals, 20, 30)
    assert output.proposal_boxes.tensor.tolist() == [[3, 4, 9, 8]]


def test_instances_without_boxes_are_refused():
    with pytest.raises(ValueError, match="pred_boxes.*scores"):
        detector_postprocess(Instances((10, 10), scores=torch.ones(1)), 20, 20)


def test_no_detections_give_no_masks():
    output = detector_postprocess(detections()[:0], 50, 400)
    assert output.pred_masks.shape == (0, 50, 400)


def test_semantic_scores_lose_their_padding_before_they_are_resized():
    scores = torch.zeros(1, 6, 8)
    scores[:, :4, :6] = 1.0
    resized = sem_seg_postprocess(scores, (4, 6), 8, 12)
    assert_close(resized, torch.ones(1, 8, 12))


def test_semantic_scores_of_the_right_size_are_only_cropped():
    scores = torch.randn(2, 6, 8)
    assert_close(sem_seg_postprocess(scores, (4, 6), 4, 6), scores[:, :4, :6], rtol=0, atol=0)


def test_both_forms_give_the_same_output_and_keep_the_order():
    many = Instances.cat([detections(), detections()])
    many.scores = torch.arange(6.0)
    turned = Instances((100, 200), pred_boxes=RotatedBoxes([[50.0, 50, 9, 9, 30], [1, 1, 0, 5, 0]]))
    batch, sizes = [many, detections()[:1], detections()[:0], turned], [(50, 400)] * 4
    with fixed_form(False):
        counted = to_output_frames(batch, sizes)
    with fixed_form(True):
        fixed = to_output_frames(batch, sizes)
    assert [len(output) for output in fixed] == [4, 1, 0, 1]
    for one, other in zip(counted, fixed, strict=True):
        assert one.image_size == other.image_size
        expected, actual = (
            {k: getattr(v, "tensor", v) for k, v in x.get_fields().items()} for x in (one, other)
        )
        assert_close(actual, expected, rtol=0, atol=0)


def test_the_host_waits_once_for_the_output_frames_of_a_batch():
    with host_waits() as waits:
        batch = [
            Instances((9, 9), pred_boxes=Boxes(torch.rand(5, 4).to(FAR, non_blocking=True)))
            for _ in range(3)
        ]
        to_output_frames(batch, [(20, 20)] * 3)
    assert len(waits) == 1, "\n".join(map(str, waits))


@pytest.mark.parametrize("fixed", [False, True])
def test_boxes_that_are_not_finite_are_an_error(fixed):
    broken = Instances((9, 9), pred_boxes=Boxes([[0.0, 0, float("nan"), 4]]))
    with fixed_form(fixed), pytest.raises(AssertionError, match="infinite or NaN"):
        to_output_frames([broken], [(20, 20)])
