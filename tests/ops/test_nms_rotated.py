import time

import pytest
import torch
from ops_contract import generator, random_boxes, random_rotated_boxes

from detectron2.ops import (
    batched_nms_rotated,
    box_iou_rotated,
    dispatch,
    nms,
    nms_rotated,
)


@pytest.fixture(params=["numba", "reference"])
def implementation(request):
    with dispatch.use_implementation(request.param):
        yield request.param


either = pytest.mark.usefixtures("implementation")


def random_case(count, device="cpu"):
    boxes = random_rotated_boxes(count, 60, device)
    scores = torch.rand(count, generator=generator("scores", count)).to(device)
    classes = torch.randint(4, (count,), generator=generator("classes", count)).to(device)
    return boxes, scores, classes


def greedy(iou, scores, classes, threshold):
    kept = []
    for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
        rivals = [other for other in kept if classes[other] == classes[index]]
        if all(iou[index][other] <= threshold for other in rivals):
            kept.append(index)
    return kept


@either
@pytest.mark.parametrize("count", [0, 1, 7, 300])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0])
def test_matches_the_definition(count, threshold):
    boxes, scores, classes = random_case(count)
    iou = box_iou_rotated(boxes, boxes).tolist()
    expected = greedy(iou, scores.tolist(), [0] * count, threshold)
    assert nms_rotated(boxes, scores, threshold).tolist() == expected
    expected = greedy(iou, scores.tolist(), classes.tolist(), threshold)
    assert batched_nms_rotated(boxes, scores, classes, threshold).tolist() == expected


@either
def test_upright_boxes_are_kept_as_by_ordinary_suppression():
    upright = random_boxes(200, 60).double()
    low, high = upright[:, :2], upright[:, 2:]
    boxes = torch.cat([(low + high) / 2, high - low, torch.zeros(200, 1)], 1)
    scores = torch.rand(200, generator=generator("upright"))
    assert nms_rotated(boxes, scores, 0.4).tolist() == nms(upright, scores, 0.4).tolist()


def assert_keeps_what_the_reference_keeps(kernel, boxes, scores, classes, threshold):
    """Of all boxes, and within each class; boxes that are not contiguous, too."""
    strided = torch.stack([boxes, boxes], 2)[:, :, 0]
    with dispatch.use_implementation("reference"):
        expected = nms_rotated(boxes, scores, threshold)
        expected_batched = batched_nms_rotated(boxes, scores, classes, threshold)
    with kernel.active():
        assert torch.equal(nms_rotated(strided, scores, threshold), expected)
        actual = batched_nms_rotated(strided, scores, classes, threshold)
    assert torch.equal(actual, expected_batched)
    return expected


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [0, 1, 70])
def test_matches_reference(kernel, count, threshold):
    case = random_case(count, kernel.device)
    kept = assert_keeps_what_the_reference_keeps(kernel, *case, threshold)
    assert count < 70 or threshold == 1 or len(kept) < count


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_matches_reference(kernel, dtype):
    boxes, scores, classes = random_case(40, kernel.device)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    assert_keeps_what_the_reference_keeps(kernel, boxes, scores, classes, 0.3)


def test_the_threshold_is_a_double_also_for_float32_boxes(kernel):
    # IoU 3/5, in float32 slightly above 0.6 and in float64 exactly the double 0.6.
    boxes = torch.tensor([[2.0, 0, 4, 1, 0], [3, 0, 4, 1, 0]], device=kernel.device)
    scores = torch.tensor([0.9, 0.8], device=kernel.device)
    with kernel.active():
        assert nms_rotated(boxes, scores, 0.6).tolist() == [0]
        assert nms_rotated(boxes.double(), scores, 0.6).tolist() == [0, 1]


@either
def test_convention_classes_never_drop_one_another():
    boxes = torch.tensor([[-5e5, -5e5, 8, 4, 30]]).repeat(3, 1)
    classes, scores = torch.tensor([9, 2, 9]), torch.tensor([0.1, 0.2, 0.3])
    assert batched_nms_rotated(boxes, scores, classes, 0.5).tolist() == [2, 1]


@either
def test_a_thousand_boxes_take_seconds_at_most():
    boxes, scores, _ = random_case(1000)
    start = time.process_time()
    nms_rotated(boxes, scores, 0.5)
    assert time.process_time() - start < 20


def test_torch_op_is_registered_correctly(kernel):
    boxes, scores, classes = random_case(5, kernel.device)
    ops = torch.ops.detectron2
    with kernel.active():
        torch.library.opcheck(ops.nms_rotated, (boxes, scores, 0.5))
        torch.library.opcheck(ops.batched_nms_rotated, (boxes, scores, classes, 0.5))


@either
def test_wrong_arguments_are_named():
    boxes, scores, classes = random_case(3)
    with pytest.raises(ValueError, match=r"boxes has shape \(3, 4\); expected \(N, 5\)"):
        nms_rotated(boxes[:, 1:], scores, 0.5)
    with pytest.raises(ValueError, match=r"class_ids has shape \(2,\) for 3 boxes"):
        batched_nms_rotated(boxes, scores, classes[:2], 0.5)
