"""Under the forced reference the ops trace and export, and stay right for other sizes."""

import warnings

import pytest
import torch
from ops_contract import assert_close, generator, random_boxes, random_rotated_boxes, with_images

from detectron2 import ops
from detectron2.ops import dispatch
from detectron2.utils.env import TORCH_VERSION

FEATURES = torch.randn(1, 3, 20, 24, generator=generator("export"))


def rows(count):
    """Boxes, scores and classes of `count` objects, of values that differ by count."""
    random = generator("export", count)
    scores = torch.rand(count, generator=random)
    return random_boxes(count, 60), scores, torch.randint(3, (count,), generator=random)


def nms(boxes, scores, classes):
    return ops.nms(boxes, scores, 0.3)


def batched_nms(boxes, scores, classes):
    return ops.batched_nms(boxes, scores, classes, 0.3)


def nms_rotated(boxes, scores, classes):
    rotated = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1, scores[:, None] * 90], 1)
    return ops.nms_rotated(rotated, scores, 0.3)


def box_iou(boxes, scores, classes):
    return ops.box_iou(boxes, boxes)


def roi_align(boxes, scores, classes):
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    return ops.roi_align(FEATURES, rois, 4, 0.25, 0, True)


def roi_align_fixed(boxes, scores, classes):
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    return ops.roi_align(FEATURES, rois, 4, 0.25, 2, False)


def multilevel_roi_align(boxes, scores, classes):
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    levels = [FEATURES, FEATURES[:, :, ::2, ::2], FEATURES[:, :, ::4, ::4]]
    return ops.multilevel_roi_align(levels, rois, classes, 4, [0.25, 0.125, 0.0625], 0, True)


def roi_pool(boxes, scores, classes):
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    return ops.roi_pool(FEATURES, rois, 4, 0.25)


def paste_masks(boxes, scores, classes):
    masks = torch.sigmoid(scores[:, None, None] * torch.linspace(-4, 4, 64).reshape(8, 8))
    return ops.paste_masks(masks, boxes, (30, 40), 0.5)


exports_loops = pytest.mark.skipif(
    TORCH_VERSION < (2, 7), reason="torch.export cannot follow these loops before torch 2.7"
)

FUNCTIONS = [
    nms,
    batched_nms,
    nms_rotated,
    box_iou,
    roi_align,
    roi_align_fixed,
    multilevel_roi_align,
    roi_pool,
    paste_masks,
]


class Wrapped(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, boxes, scores, classes):
        return self.function(boxes, scores, classes)


@exports_loops
@pytest.mark.parametrize("function", FUNCTIONS)
def test_exported_programs_hold_for_other_numbers_of_boxes(function):
    count = {0: torch.export.Dim("count", min=2, max=4000)}
    with dispatch.use_implementation("reference"):
        program = torch.export.export(
            Wrapped(function),
            rows(10),
            dynamic_shapes=dict.fromkeys(("boxes", "scores", "classes"), count),
            strict=False,
        )
        assert not any("detectron2" in str(node.target) for node in program.graph.nodes)
        assert_close(program.module()(*rows(120)), function(*rows(120)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_traced_programs_hold_for_other_numbers_of_boxes(function):
    with dispatch.use_implementation("reference"):
        with warnings.catch_warnings():
            # Tracing is deprecated, and calls every check of a shape a possible constant.
            warnings.simplefilter("ignore")
            program = torch.jit.trace(Wrapped(function), rows(10), check_trace=False)
        assert_close(program(*rows(120)), function(*rows(120)))


@exports_loops
def test_deformable_convolution_exports():
    offset = torch.randn(1, 18, 20, 24, generator=generator("offset"))
    weight = torch.randn(4, 3, 3, 3, generator=generator("weight"))

    class Model(torch.nn.Module):
        def forward(self, features, offset):
            return ops.deform_conv(features, offset, weight, padding=1)

    with dispatch.use_implementation("reference"):
        program = torch.export.export(Model(), (FEATURES, offset), strict=False)
        assert_close(program.module()(FEATURES, offset * 2), Model()(FEATURES, offset * 2))


@exports_loops
def test_rotated_pooling_exports():
    class Model(torch.nn.Module):
        def forward(self, rois):
            return ops.roi_align_rotated(FEATURES, rois, 3, 0.25, 0)

    first = with_images(random_rotated_boxes(8, 60), 1)
    second = with_images(random_rotated_boxes(30, 60), 1)
    count = {0: torch.export.Dim("count", min=2, max=4000)}
    with dispatch.use_implementation("reference"):
        program = torch.export.export(Model(), (first,), dynamic_shapes=(count,), strict=False)
        assert_close(program.module()(second), Model()(second))
