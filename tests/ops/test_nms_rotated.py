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


@pytest.fixture(params=["numba", "reference"], autouse=True)
def implementation(request):
    with dispatch.use_implementation(request.param):
        yield request.param


def random_case(count):
    boxes = random_rotated_boxes(count, 60)
    scores = torch.rand(count, generator=generator("scores", count))
    return boxes, scores, torch.randint(4, (count,), generator=generator("classes", count))


def greedy(iou, scores, classes, threshold):
    kept = []
    for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
        rivals = [other for other in kept if classes[other] == classes[index]]
        if all(iou[index][other] <= threshold for other in rivals):
            kept.append(index)
    return kept


@pytest.mark.parametrize("count", [0, 1, 7, 300])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0])
def test_matches_the_definition(count, threshold):
    boxes, scores, classes = random_case(count)
    iou = box_iou_rotated(boxes, boxes).tolist()
    expected = greedy(iou, scores.tolist(), [0] * count, threshold)
    assert nms_rotated(boxes, scores, threshold).tolist() == expected
    expected = greedy(iou, scores.tolist(), classes.tolist(), threshold)
    assert batched_nms_rotated(boxes, scores, classes, threshold).tolist() == expected


def test_upright_boxes_are_kept_as_by_ordinary_suppression():
    upright = random_boxes(200, 60).double()
    low, high = upright[:, :2], upright[:, 2:]
    boxes = torch.cat([(low + high) / 2, high - low, torch.zeros(200, 1)], 1)
    scores = torch.rand(200, generator=generator("upright"))
    assert nms_rotated(boxes, scores, 0.4).tolist() == nms(upright, scores, 0.4).tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_matches_reference(dtype):
    boxes, scores, classes = random_case(60)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    strided = torch.stack([boxes, boxes], 2)[:, :, 0]
    with dispatch.use_implementation("reference"):
        expected = batched_nms_rotated(boxes, scores, classes, 0.3)
    assert torch.equal(batched_nms_rotated(strided, scores, classes, 0.3), expected)


def test_convention_classes_never_drop_one_another():
    boxes = torch.tensor([[-5e5, -5e5, 8, 4, 30]]).repeat(3, 1)
    classes, scores = torch.tensor([9, 2, 9]), torch.tensor([0.1, 0.2, 0.3])
    assert batched_nms_rotated(boxes, scores, classes, 0.5).tolist() == [2, 1]


def test_a_thousand_boxes_take_seconds_at_most():
    boxes, scores, _ = random_case(1000)
    start = time.process_time()
    nms_rotated(boxes, scores, 0.5)
    assert time.process_time() - start < 20


def test_torch_op_is_registered_correctly():
    boxes, scores, classes = random_case(5)
    torch.library.opcheck(torch.ops.detectron2.nms_rotated, (boxes, scores, 0.5))
    torch.library.opcheck(torch.ops.detectron2.batched_nms_rotated, (boxes, scores, classes, 0.5))


def test_wrong_arguments_are_named():
    boxes, scores, classes = random_case(3)
    with pytest.raises(ValueError, match=r"boxes has shape \(3, 4\); expected \(N, 5\)"):
        nms_rotated(boxes[:, 1:], scores, 0.5)
    with pytest.raises(ValueError, match=r"class_ids has shape \(2,\) for 3 boxes"):
        batched_nms_rotated(boxes, scores, classes[:2], 0.5)
