import torch
from torch.testing import assert_close

from detectron2.export.batched.points import values_at_points
from detectron2.projects.point_rend.point_features import point_sample


def test_values_of_an_image_are_those_of_its_own_map():
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 3, 7, 9, generator=generator)
    images = torch.tensor([1, 0, 1])
    points = torch.rand(3, 40, 2, generator=generator) * 12 - 1.5  # some outside
    expected = point_sample(feature[images], points / torch.tensor([9.0, 7.0]))
    assert_close(values_at_points(feature, images, points), expected, rtol=1e-4, atol=1e-4)
    assert values_at_points(feature, images[:0], points[:0]).shape == (0, 3, 40)
