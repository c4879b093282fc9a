import pytest
import torch
from torch.testing import assert_close

from detectron2.layers import ROIAlign, ROIAlignRotated
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.structures import Boxes, RotatedBoxes

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def pyramid(num_images=2, channels=3, dtype=torch.float32):
    torch.manual_seed(0)
    return [
        torch.randn(num_images, channels, 128 // s, 160 // s, dtype=dtype) for s in (4, 8, 16, 32)
    ]


def boxes_of_sides(*sides):
    return Boxes(torch.tensor([[3.0, 2.0, 3.0 + side, 2.0 + side] for side in sides]))


def test_a_box_of_the_canonical_size_belongs_to_the_canonical_level():
    boxes = [boxes_of_sides(224.0), boxes_of_sides(112.0, 448.0)]
    assert assign_boxes_to_levels(boxes, 2, 5, 224, 4).tolist() == [2, 1, 3]


def test_a_box_outside_of_the_pyramid_takes_the_nearest_level():
    levels = assign_boxes_to_levels([boxes_of_sides(1.0, 5000.0)], 2, 5, 224, 4)
    assert levels.tolist() == [0, 3]
    assert levels.dtype == torch.int64


def test_a_box_without_area_takes_the_lowest_level():
    assert assign_boxes_to_levels([boxes_of_sides(0.0)], 3, 5, 224, 4).tolist() == [0]


def test_pooler_format_prepends_the_image_index():
    rows = convert_boxes_to_pooler_format([boxes_of_sides(1.0), boxes_of_sides(2.0, 3.0)])
    assert rows.tolist() == [[0, 3, 2, 4, 3], [1, 3, 2, 5, 4], [1, 3, 2, 6, 5]]


def test_pooler_format_of_rotated_boxes_has_six_columns():
    rotated = RotatedBoxes(torch.tensor([[10.0, 12, 4, 6, 30]]))
    assert convert_boxes_to_pooler_format([rotated]).tolist() == [[0, 10, 12, 4, 6, 30]]


@pytest.mark.parametrize("pooler_type", ["ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated"])
def test_each_box_is_pooled_from_its_own_level(pooler_type):
    features = pyramid()
    boxes = [boxes_of_sides(20.0, 300.0, 100.0), boxes_of_sides(600.0, 9.0)]
    if pooler_type == "ROIAlignRotated":
        boxes = [
            RotatedBoxes(torch.cat([b.tensor, torch.full((len(b), 1), 20.0)], 1)) for b in boxes
        ]
    pooler = ROIPooler(4, SCALES, 2, pooler_type)
    pooled = pooler(features, boxes)
    levels = assign_boxes_to_levels(boxes, 2, 5, 224, 4)
    rois = convert_boxes_to_pooler_format(boxes)
    for row, level in enumerate(levels.tolist()):
        alone = pooler.level_poolers[level](features[level], rois[row : row + 1])
        assert_close(pooled[row : row + 1], alone)


def test_every_level_gets_its_gradient():
    features = [f.requires_grad_() for f in pyramid()]
    boxes = [boxes_of_sides(20.0, 120.0, 230.0), boxes_of_sides(460.0)]
    ROIPooler(3, SCALES, 2, "ROIAlignV2")(features, boxes).sum().backward()
    assert all(f.grad.abs().sum() > 0 for f in features)


def test_one_map_needs_no_levels():
    features = pyramid()[1:2]
    boxes = [boxes_of_sides(20.0), boxes_of_sides(60.0)]
    pooled = ROIPooler((3, 5), SCALES[1:2], 0, "ROIAlignV2")(features, boxes)
    expected = ROIAlign((3, 5), 1 / 8, 0, aligned=True)(
        features[0], convert_boxes_to_pooler_format(boxes)
    )
    assert_close(pooled, expected)


def test_rotated_boxes_of_angle_zero_agree_with_upright_ones():
    features = pyramid()
    upright = [boxes_of_sides(20.0, 100.0), boxes_of_sides(300.0)]
    rotated = []
    for boxes in upright:
        x0, y0, x1, y1 = boxes.tensor.unbind(1)
        centers = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, 0 * x0], 1)
        rotated.append(RotatedBoxes(centers))
    assert_close(
        ROIPooler(4, SCALES, 2, "ROIAlignRotated")(features, rotated),
        ROIPooler(4, SCALES, 2, "ROIAlignV2")(features, upright),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIPool"])
def test_no_boxes_and_no_images_give_empty_features(pooler_type):
    pooler = ROIPooler((4, 6), SCALES, 0, pooler_type)
    empty = [Boxes(torch.zeros(0, 4)), Boxes(torch.zeros(0, 4))]
    assert pooler(pyramid(), empty).shape == (0, 3, 4, 6)
    assert pooler(pyramid(num_images=0), []).shape == (0, 3, 4, 6)


def test_scales_that_are_no_pyramid_are_refused():
    with pytest.raises(AssertionError, match="no pyramid"):
        ROIPooler(4, (1 / 4, 1 / 16), 0, "ROIAlignV2")
    with pytest.raises(AssertionError, match="no pyramid"):
        ROIPooler(4, (1 / 5, 1 / 10), 0, "ROIAlignV2")


def test_unknown_pooler_type_is_refused():
    with pytest.raises(ValueError, match="'Nope'.*ROIAlignV2"):
        ROIPooler(4, SCALES, 0, "Nope")


def test_wrong_number_of_maps_or_images_is_refused():
    pooler = ROIPooler(4, SCALES, 0, "ROIAlignV2")
    with pytest.raises(ValueError, match="4 feature maps and got 3"):
        pooler(pyramid()[:3], [boxes_of_sides(20.0)] * 2)
    with pytest.raises(ValueError, match="boxes of 1 images and features of 2"):
        pooler(pyramid(), [boxes_of_sides(20.0)])


def test_poolers_of_the_levels_carry_their_scale():
    pooler = ROIPooler(4, SCALES, 2, "ROIAlignRotated")
    assert [p.spatial_scale for p in pooler.level_poolers] == list(SCALES)
    assert all(isinstance(p, ROIAlignRotated) for p in pooler.level_poolers)
    assert (pooler.min_level, pooler.max_level) == (2, 5)
