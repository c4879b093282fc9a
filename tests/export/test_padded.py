"""Steps of detectors in fixed shapes against the ops whose shapes depend on values."""

import pytest
import torch
from small_models import small_model

from detectron2.export import UnsupportedModelError
from detectron2.export.batched import batched_model
from detectron2.export.batched._padded_steps import (
    NO_SCORE,
    best_detections,
    keep_in_order,
    pool_by_weights,
)
from detectron2.modeling.poolers import ROIPooler
from detectron2.ops import batched_nms
from detectron2.structures import Boxes


def random_boxes(generator, *shape, extent=60.0):
    corners = torch.rand(*shape, 2, 2, generator=generator) * extent
    return torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_rows_kept_in_order_are_those_of_batched_nms(threshold):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, 2, 80)
    boxes[0, 10] = boxes[0, 3]  # the same box twice
    boxes[1, 5, 2:] = boxes[1, 5, :2]  # an empty one
    groups = torch.randint(0, 3, (2, 80), generator=generator)
    usable = torch.rand(2, 80, generator=generator) > 0.1
    keep = keep_in_order(boxes, groups, usable, threshold)
    scores = torch.arange(80, 0, -1).float()
    for index in range(2):
        rows = usable[index].nonzero()[:, 0]
        expected = batched_nms(boxes[index, rows], scores[rows], groups[index, rows], threshold)
        assert keep[index].nonzero()[:, 0].tolist() == sorted(rows[expected].tolist())


def test_rows_without_a_score_are_never_detections():
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]])
    scores = torch.tensor([[NO_SCORE, 0.4, 0.6]])
    found, found_scores, classes = best_detections(
        boxes, scores, torch.tensor([[1, 1, 2]]), 0.5, limit=-1
    )
    assert found_scores[0, :2].tolist() == pytest.approx([0.6, 0.4])
    assert found_scores[0, 2] == NO_SCORE and classes[0, :2].tolist() == [2, 1]
    assert found[0, 0].tolist() == [20, 20, 30, 30]


@pytest.mark.parametrize("pooler_type", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_pooling_by_weights_is_roi_align(pooler_type, sampling_ratio):
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 3, 40 // k, 56 // k, generator=generator) for k in (1, 2)]
    pooler = ROIPooler(5, [1 / 4, 1 / 8], sampling_ratio, pooler_type, canonical_box_size=60,
                       canonical_level=3)  # fmt: skip
    boxes = random_boxes(generator, 2, 70, extent=160.0)
    boxes[0, 0] = torch.tensor([0.0, 0, 224, 160])  # the whole image
    boxes[0, 1] = torch.tensor([50.0, 50, 50, 50])  # nothing
    boxes[0, 2] = torch.tensor([0.0, 30, 224, 31])  # as thin as a line
    boxes[1, 0] = torch.tensor([223.0, 159, 224, 160])  # in the corner
    expected = pooler(maps, [Boxes(each) for each in boxes])
    torch.testing.assert_close(pool_by_weights(pooler, maps, boxes), expected)


def test_fixed_shapes_of_what_has_none_are_refused():
    with pytest.raises(UnsupportedModelError, match="fixed shapes: .* rotated NMS"):
        batched_model(small_model("Rotated Faster R-CNN"), padded=True)
    model = small_model("Faster R-CNN FPN")
    model.roi_heads.box_pooler = ROIPooler(7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIPool")
    with pytest.raises(UnsupportedModelError, match=r"roi_heads.box_pooler pools by ROIPool, only"):
        batched_model(model, padded=True)
