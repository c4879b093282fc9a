import math

import pytest
import torch
from ops_contract import generator, random_boxes

from detectron2.ops import batched_nms, box_iou, dispatch, nms


def greedy(boxes, scores, classes, threshold):
    """The definition, pair by pair, in Python's double precision."""
    order = sorted(range(len(boxes)), key=lambda index: -scores[index])
    kept = []
    for index in order:
        x0, y0, x1, y1 = boxes[index]
        for other in kept:
            a0, b0, a1, b1 = boxes[other]
            common = max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
            union = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - common
            if classes[index] == classes[other] and common > threshold * union:
                break
        else:
            kept.append(index)
    return kept


def random_case(count, device="cpu", dtype=torch.float32):
    boxes = random_boxes(count, 60, device).to(dtype)
    scores = torch.rand(count, generator=generator("scores", count)).to(device, dtype)
    classes = torch.randint(5, (count,), generator=generator("classes", count)).to(device)
    return boxes, scores, classes


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_matches_the_definition(kernel, count, threshold):
    boxes, scores, classes = random_case(count, kernel.device)
    rows = boxes.double().tolist(), scores.tolist()
    with kernel.active():
        assert nms(boxes, scores, threshold).tolist() == greedy(*rows, [0] * count, threshold)
        actual = batched_nms(boxes, scores, classes, threshold)
        assert actual.tolist() == greedy(*rows, classes.tolist(), threshold)
        assert actual.dtype == torch.int64 and actual.device == boxes.device


@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_matches_reference_in_every_dtype(kernel, dtype, threshold):
    boxes, scores, classes = random_case(80, kernel.device, dtype)
    strided = torch.stack([boxes, boxes], dim=2)[:, :, 1]
    with dispatch.use_implementation("reference"):
        expected = nms(boxes, scores, threshold)
        expected_batched = batched_nms(boxes, scores, classes, threshold)
    with kernel.active():
        assert torch.equal(nms(strided, scores, threshold), expected)
        assert torch.equal(batched_nms(strided, scores, classes, threshold), expected_batched)


def test_half_precision_boxes_are_compared_in_float32(kernel):
    boxes, scores, _ = random_case(200, kernel.device, torch.float16)
    with kernel.active():
        assert torch.equal(nms(boxes, scores, 0.5), nms(boxes.float(), scores.float(), 0.5))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 65, 200])
def test_a_chain_of_boxes_keeps_every_second(kernel, count):
    # Box i overlaps only its neighbours: whether it stays depends on every box before it.
    left = torch.arange(count, device=kernel.device).float()
    boxes = torch.stack([left, left * 0, left + 1.5, left * 0 + 1], dim=1)
    scores = -left
    with kernel.active():
        kept = nms(boxes, scores, 0.1)
    assert kept.tolist() == list(range(0, count, 2))


def test_convention_a_box_at_the_threshold_stays(kernel):
    boxes = torch.tensor([[0.0, 0, 4, 1], [0, 0, 4, 1], [2, 0, 4, 1]], device=kernel.device)
    scores = torch.tensor([0.9, 0.8, 0.7], device=kernel.device)
    with kernel.active():
        assert nms(boxes, scores, 1.0).tolist() == [0, 1, 2]
        assert nms(boxes[1:], scores[1:], 0.5).tolist() == [0, 1]
        assert nms(boxes[1:], scores[1:], 0.499).tolist() == [0]


def test_the_threshold_is_a_double_also_for_float32_boxes(kernel):
    # IoU 3/5, in float32 slightly above 0.6 and in float64 exactly the double 0.6.
    boxes = torch.tensor([[0.0, 0, 4, 1], [1, 0, 5, 1]], device=kernel.device)
    scores = torch.tensor([0.9, 0.8], device=kernel.device)
    with kernel.active():
        assert nms(boxes, scores, 0.6).tolist() == [0]
        assert nms(boxes.double(), scores, 0.6).tolist() == [0, 1]


def test_ious_round_as_pytorch_rounds_them(kernel):
    # At a threshold that is the IoU itself a pair stays, at the next smaller number it goes.
    # One fused multiplication in the kernel, and the last bit of some of these IoUs differs.
    first = random_boxes(40 if kernel.is_interpreted else 400, device=kernel.device)
    pairs = torch.stack([first, first * 1.02 + 0.3], dim=1)
    scores = torch.tensor([0.9, 0.8], device=kernel.device)
    for pair in pairs:
        with dispatch.use_implementation("reference"):
            iou = box_iou(pair, pair)[0, 1].cpu()
        if iou > 0:
            below = torch.nextafter(iou, torch.tensor(0.0)).item()
            with kernel.active():
                assert len(nms(pair, scores, iou.item())) == 2
                assert len(nms(pair, scores, below)) == 1


def test_convention_equal_scores_keep_their_order(kernel):
    boxes = torch.tensor([[0.0, 0, 1, 1]], device=kernel.device).repeat(50, 1)
    boxes += 10 * torch.arange(50, device=kernel.device)[:, None]
    scores = torch.ones(50, device=kernel.device)
    with kernel.active():
        assert nms(boxes, scores, 0.5).tolist() == list(range(50))
        assert nms(boxes[:1].repeat(9, 1), scores[:9], 0.5).tolist() == [0]


def test_convention_classes_never_drop_one_another(kernel):
    # Coordinates of any sign and size: no offset between the classes that could round.
    boxes = torch.tensor([[-1e6, -1e6, -1e6 + 8, -1e6 + 8]], device=kernel.device).repeat(4, 1)
    classes = torch.tensor([3, 0, 3, 80], device=kernel.device)
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4], device=kernel.device)
    with kernel.active():
        assert batched_nms(boxes, scores, classes, 0.5).tolist() == [3, 2, 1]
        assert batched_nms(boxes, scores, classes.int(), 0.5).tolist() == [3, 2, 1]


def test_convention_boxes_that_are_not_finite_neither_drop_nor_are_dropped(kernel):
    inf, nan = math.inf, math.nan
    boxes = torch.tensor(
        [[0, 0, 10, 10], [nan, 0, 10, 10], [0, 0, inf, 10], [0, 0, inf, 10], [0, 0, 10, 10]],
        device=kernel.device,
    )
    scores = torch.tensor([0.1, 0.5, 0.4, 0.3, 0.2], device=kernel.device)
    with kernel.active():
        assert nms(boxes, scores, 0.5).tolist() == [1, 2, 3, 4]


def test_convention_a_nan_score_counts_as_the_highest(kernel):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]], device=kernel.device)
    scores = torch.tensor([math.inf, math.nan], device=kernel.device)
    with kernel.active():
        assert nms(boxes, scores, 0.5).tolist() == [1]


def test_boxes_without_area_do_not_drop_one_another(kernel):
    boxes = torch.zeros(3, 4, device=kernel.device)
    with kernel.active():
        assert nms(boxes, torch.ones(3, device=kernel.device), 0.5).tolist() == [0, 1, 2]


def test_inputs_are_not_changed(kernel):
    boxes, scores, classes = random_case(64, kernel.device)
    before = boxes.clone(), scores.clone(), classes.clone()
    with kernel.active():
        batched_nms(boxes, scores, classes, 0.2)
    assert all(map(torch.equal, before, (boxes, scores, classes)))


def test_gradients_may_be_on(kernel):
    boxes, scores, _ = random_case(7, kernel.device)
    with kernel.active():
        kept = nms(boxes.requires_grad_(True), scores.requires_grad_(True), 0.5)
    assert not kept.requires_grad


def test_torch_op_is_registered_correctly(kernel):
    boxes, scores, classes = random_case(9, kernel.device)
    with kernel.active():
        torch.library.opcheck(torch.ops.detectron2.nms, (boxes, scores, 0.5))
        torch.library.opcheck(torch.ops.detectron2.batched_nms, (boxes, scores, classes, 0.5))


def test_wrong_arguments_are_named():
    boxes, scores = torch.zeros(3, 4), torch.zeros(3)
    with pytest.raises(ValueError, match=r"boxes has shape \(3, 3\); expected \(N, 4\) rows"):
        nms(boxes[:, :3], scores, 0.5)
    with pytest.raises(TypeError, match="boxes has dtype torch.int64"):
        nms(boxes.long(), scores, 0.5)
    with pytest.raises(ValueError, match=r"scores has shape \(2,\) for 3 boxes"):
        nms(boxes, scores[:2], 0.5)
    with pytest.raises(ValueError, match=r"class_ids has shape \(3, 1\) for 3 boxes"):
        batched_nms(boxes, scores, scores[:, None], 0.5)
    with pytest.raises(ValueError, match="boxes is on cpu and scores on meta"):
        nms(boxes, scores.to("meta"), 0.5)
