import math

import pytest
import torch
from ops_contract import assert_close, check_against_reference, generator, random_boxes

from detectron2.ops import box_iou


def test_values_a_person_can_check(kernel):
    first = torch.tensor([[0.0, 0, 2, 2], [0, 0, 0, 0]], device=kernel.device)
    second = torch.tensor([[1.0, 0, 3, 2], [2, 2, 4, 4], [0, 0, 2, 1]], device=kernel.device)
    with kernel.active():
        iou = box_iou(first, second).tolist()
    assert iou[0] == pytest.approx([1 / 3, 0, 1 / 2])
    assert iou[1] == [0, 0, 0]


def test_matches_reference(kernel, count):
    first = random_boxes(count, device=kernel.device).requires_grad_(True)
    second = random_boxes(37, device=kernel.device, seed=1).requires_grad_(True)
    leaves = ("boxes1", "boxes2")
    check_against_reference(box_iou, kernel, first, second, leaves=leaves)
    check_against_reference(box_iou, kernel, second, first, leaves=leaves[::-1])


def test_matches_reference_in_every_dtype(kernel, dtype):
    first = random_boxes(7, device=kernel.device).to(dtype)
    second = random_boxes(9, device=kernel.device, seed=1).to(dtype)
    second = torch.stack([second, second], dim=2)[:, :, 1]
    first, second = first.requires_grad_(True), second.requires_grad_(True)
    check_against_reference(box_iou, kernel, first, second, leaves=("boxes1", "boxes2"))


def test_convention_mixed_dtypes_are_promoted(kernel):
    boxes = random_boxes(5, device=kernel.device)
    with kernel.active():
        assert box_iou(boxes.half(), boxes).dtype == torch.float32
        assert_close(box_iou(boxes.double(), boxes), box_iou(boxes.double(), boxes.double()))


def test_gradient_is_right(kernel):
    if kernel.is_interpreted:
        pytest.skip("numeric gradients take minutes in the interpreter")
    boxes = random_boxes(12, 20, kernel.device).double()
    first, second = boxes[:7].clone().requires_grad_(True), boxes[7:].clone().requires_grad_(True)
    with kernel.active():
        assert torch.autograd.gradcheck(box_iou, (first, second))
        assert torch.autograd.gradgradcheck(box_iou, (first, second))


def test_gradient_of_equal_and_empty_boxes_matches_reference(kernel):
    boxes = torch.tensor(
        [[0, 0, 4, 4], [0, 0, 4, 4], [2, 2, 2, 2], [0, 0, 4, 2], [4, 0, 8, 4]],
        device=kernel.device,
        dtype=torch.float32,
    )
    first, second = boxes.clone().requires_grad_(True), boxes.clone().requires_grad_(True)
    check_against_reference(box_iou, kernel, first, second, leaves=("boxes1", "boxes2"))


def test_convention_boxes_with_a_nan_overlap_nothing(kernel):
    boxes = torch.tensor([[0, 0, 4, 4], [math.nan, 0, 4, 4]], device=kernel.device)
    with kernel.active():
        assert box_iou(boxes, boxes).tolist() == [[1, 0], [0, 0]]


def test_tiles_of_the_matrix_join_seamlessly(kernel):
    counts = (17, 130) if kernel.is_interpreted else (129, 2049)
    first = random_boxes(counts[0], device=kernel.device)
    second = random_boxes(counts[1], device=kernel.device, seed=1)
    for pair in ((first, second), (second, first)):
        check_against_reference(box_iou, kernel, *pair)


def test_torch_op_is_registered_correctly(kernel):
    boxes = random_boxes(5, device=kernel.device).requires_grad_(True)
    other = torch.rand(3, 4, generator=generator("other")).to(kernel.device)
    with kernel.active():
        torch.library.opcheck(torch.ops.detectron2.box_iou, (boxes, other))


def test_wrong_arguments_are_named():
    boxes = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"boxes2 has shape \(3, 3\)"):
        box_iou(boxes, boxes[:, 1:])
    with pytest.raises(TypeError, match="boxes1 has dtype torch.int32"):
        box_iou(boxes.int(), boxes)
    with pytest.raises(ValueError, match="boxes1 is on cpu and boxes2 on meta"):
        box_iou(boxes, boxes.to("meta"))
