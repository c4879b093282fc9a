import math

import pytest
import torch
from torch.testing import assert_close

from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    Box2BoxTransformLinear,
    Box2BoxTransformRotated,
    _dense_box_regression_loss,
)
from detectron2.structures import Boxes

SOURCE = torch.tensor([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 25.0, 15.0]])
TARGET = torch.tensor([[5.0, 0.0, 15.0, 40.0], [5.0, 5.0, 25.0, 15.0]])


def test_deltas_of_a_box_moved_and_stretched():
    deltas = Box2BoxTransform((10.0, 10.0, 5.0, 5.0)).get_deltas(SOURCE, TARGET)
    # Centre from (5, 10) to (10, 20), height doubled.
    assert_close(deltas[0], torch.tensor([5.0, 5.0, 0.0, 5 * math.log(2)]))
    assert_close(deltas[1], torch.zeros(4))


@pytest.mark.parametrize(
    "transform",
    [
        Box2BoxTransform((1, 1, 1, 1)),
        Box2BoxTransform((10, 10, 5, 5)),
        Box2BoxTransformLinear(normalize_by_size=True),
        Box2BoxTransformLinear(normalize_by_size=False),
    ],
)
def test_decoding_inverts_encoding(transform):
    around = torch.cat([SOURCE[:, :2] - 3, SOURCE[:, 2:] + 4], dim=1)
    deltas = transform.get_deltas(SOURCE, around)
    assert_close(transform.apply_deltas(deltas, SOURCE), around)


def test_decoding_inverts_encoding_of_rotated_boxes():
    transform = Box2BoxTransformRotated((10, 10, 5, 5, 1))
    source = torch.tensor([[50.0, 60, 20, 10, -170], [50, 60, 20, 10, 45]])
    target = torch.tensor([[52.0, 61, 30, 5, 175], [50, 60, 20, 10, 44]])
    deltas = transform.get_deltas(source, target)
    # From -170 to 175 degrees is a turn by -15, not by 345.
    assert_close(deltas[:, 4], torch.deg2rad(torch.tensor([-15.0, -1.0])))
    assert_close(transform.apply_deltas(deltas, source), target)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_class_is_decoded_from_the_same_box(classes, count):
    transform = Box2BoxTransform((1, 1, 1, 1))
    boxes = torch.rand(count, 4) + torch.tensor([0, 0, 2, 2])
    deltas = torch.randn(count, classes * 4)
    decoded = transform.apply_deltas(deltas, boxes)
    assert decoded.shape == deltas.shape
    for index in range(classes):
        columns = slice(index * 4, index * 4 + 4)
        assert_close(decoded[:, columns], transform.apply_deltas(deltas[:, columns], boxes))


def test_wild_deltas_are_bounded():
    decoded = Box2BoxTransform((1, 1, 1, 1)).apply_deltas(
        torch.tensor([[0.0, 0.0, 1e4, 1e4]]), torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    )
    assert_close(decoded, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))


def test_convention_half_precision_deltas_decode_in_float32():
    decoded = Box2BoxTransform((1, 1, 1, 1)).apply_deltas(torch.zeros(1, 4).half(), SOURCE[:1])
    assert decoded.dtype == torch.float32


def test_linear_distances_are_never_negative_in_a_prediction():
    decoded = Box2BoxTransformLinear().apply_deltas(torch.full((1, 4), -1.0), SOURCE[:1])
    assert_close(decoded, torch.tensor([[5.0, 10.0, 5.0, 10.0]]))


def test_an_empty_source_is_refused_by_name():
    boxes = torch.tensor([[0.0, 0, 1, 1], [3, 3, 3, 9]])
    with pytest.raises(AssertionError, match="Source box 1 is"):
        Box2BoxTransform((1, 1, 1, 1)).get_deltas(boxes, TARGET)


def dense_inputs():
    anchors = [Boxes(SOURCE), Boxes(SOURCE + 7)]
    deltas = [torch.randn(3, 2, 4, requires_grad=True) for _ in anchors]
    gt_boxes = [torch.cat([TARGET, TARGET + 8 + image]) for image in range(3)]
    return anchors, deltas, gt_boxes


def test_dense_loss_sums_over_the_positive_anchors():
    anchors, deltas, gt_boxes = dense_inputs()
    transform = Box2BoxTransform((1, 1, 1, 1))
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0, 1] = mask[2, 3] = True
    loss = _dense_box_regression_loss(anchors, transform, deltas, gt_boxes, mask)
    first = transform.get_deltas(SOURCE[1:], gt_boxes[0][1:2])
    second = transform.get_deltas(SOURCE[1:] + 7, gt_boxes[2][3:4])
    expected = (deltas[0][0, 1] - first).abs().sum() + (deltas[1][2, 1] - second).abs().sum()
    assert_close(loss, expected)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_dense_loss_of_no_positives_is_zero_with_a_gradient(kind):
    anchors, deltas, gt_boxes = dense_inputs()
    mask = torch.zeros(3, 4, dtype=torch.bool)
    loss = _dense_box_regression_loss(
        anchors, Box2BoxTransform((1, 1, 1, 1)), deltas, gt_boxes, mask, kind
    )
    loss.backward()
    assert loss.item() == 0
    assert all((delta.grad == 0).all() for delta in deltas)


def test_an_unknown_loss_is_named():
    anchors, deltas, gt_boxes = dense_inputs()
    mask = torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="'l7' is unknown"):
        _dense_box_regression_loss(
            anchors, Box2BoxTransform((1, 1, 1, 1)), deltas, gt_boxes, mask, "l7"
        )
