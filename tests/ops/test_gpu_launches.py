"""How the Triton kernels are launched, seen without a GPU; see `gpu_stand_in`."""

import importlib
import importlib.util
import os

import pytest
import torch
from gpu_stand_in import gpu_stand_in

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed here"
    ),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
    ),
]

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def gpu(name):
    return importlib.import_module(f"detectron2.ops.{name}.gpu")


def suppress_boxes(count):
    boxes, scores = torch.rand(count, 4), torch.rand(count)
    classes = torch.zeros(count, dtype=torch.int64)
    gpu("nms").nms(boxes, scores, 0.5)
    gpu("nms").batched_nms(boxes, scores, classes, 0.5)


def suppress_rotated_boxes(count):
    boxes, scores = torch.rand(count, 5), torch.rand(count)
    classes = torch.zeros(count, dtype=torch.int64)
    gpu("nms_rotated").nms_rotated(boxes, scores, 0.5)
    gpu("nms_rotated").batched_nms_rotated(boxes, scores, classes, 0.5)


def compare_boxes(count):
    for other in (count, 3):
        gpu("box_iou").box_iou(torch.rand(count, 4), torch.rand(other, 4))
        gpu("box_iou_rotated").box_iou_rotated(torch.rand(count, 5), torch.rand(other, 5))


def match(count):
    for rows in (count, 3):
        gpu("matcher").matcher(torch.rand(rows, count), [0.3, 0.7], [0, -1, 1], True)


def lose(count):
    op, labels = gpu("sigmoid_focal_loss"), torch.zeros(count, dtype=torch.int64)
    for classes in (count, 3):
        logits = torch.rand(count, classes)
        op.sigmoid_focal_loss(logits, labels, 0.25, 2.0)
        op.sigmoid_focal_loss_backward(torch.ones(()), logits, labels, 0.25, 2.0)


def paste(count):
    for height, width in ((count, 40), (40, count), (count, count)):
        masks, boxes = torch.rand(count, count, count), torch.rand(count, 4)
        gpu("paste_masks").paste_masks(masks, boxes, height, width, 0.5)


def pool(count):
    op, rois = gpu("roi_align"), torch.rand(count, 5)
    levels = torch.zeros(count, dtype=torch.int64)
    for shape in ((1, count, 5, 4), (count, 3, count, 1)):
        maps = [torch.rand(shape)] * 2
        pooled = op.multilevel_roi_align(maps, rois, levels, 7, 7, [0.5, 0.25], 0, True)
        sizes = [shape[0], *shape[2:], *shape[2:]]
        op.multilevel_roi_align_backward(
            pooled, rois, levels, sizes, [0.5, 0.25], 0, True, [False, False]
        )


def pool_rotated(count):
    op, rois = gpu("roi_align_rotated"), torch.rand(count, 6)
    for shape in ((1, count, 5, 4), (count, 3, count, 1)):
        pooled = op.roi_align_rotated(torch.rand(shape), rois, 7, 7, 0.5, 0)
        op.roi_align_rotated_backward(pooled, rois, shape, 0.5, 0, False)


def convolve(count):
    op = gpu("deform_conv")
    for channels, size, stride in ((8, count, 1), (8, 40, count)):
        cells = torch.rand(1, channels, size, size)
        out = (size - 1) // stride + 1
        arguments = (
            torch.zeros(1, 18, out, out), torch.rand(4, channels, 3, 3), torch.rand(1, 9, out, out)
        )  # fmt: skip
        geometry = ([stride] * 2, [1, 1], [1, 1], 1, 1)
        output = op.deform_conv(cells, *arguments[:2], None, arguments[2], *geometry)
        op.deform_conv_backward(output, cells, *arguments, *geometry)


def pick(count):
    groups = torch.zeros(2, count, dtype=torch.int64)
    for columns in (4, 5):
        for topk in (1, 300):
            boxes, scores = torch.rand(2, count, columns), torch.rand(2, count)
            gpu("nms_topk").nms_topk(boxes, scores, groups, groups == 0, 0.5, topk)


def detect(count):
    usable, sizes = torch.ones(1, count, dtype=torch.bool), torch.ones(1, 2, dtype=torch.int64)
    for classes in (count, 3):
        deltas, scores = torch.rand(1, count, classes * 4), torch.rand(1, count, classes)
        gpu("detect_boxes").detect_boxes(
            deltas, torch.rand(1, count, 4), scores, usable, sizes, BOX_WEIGHTS, 4.0, 0.05, 0.5, 100
        )


CALLS = {
    call.__name__: call
    for call in (
        suppress_boxes, suppress_rotated_boxes, compare_boxes, match, lose, paste, pool,
        pool_rotated, convolve, pick, detect,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_size_that_triton_makes_a_constant_or_a_variant_of_does_no_harm(name, monkeypatch):
    with gpu_stand_in(monkeypatch) as launches:
        CALLS[name](37)
        known = {launch.variant for launch in launches}
        for count in (1, 16, 48, 100):
            CALLS[name](count)
    assert launches and [launch.problem() for launch in launches if launch.problem()] == []
    # A chunk of candidates has three sizes. Logits, forward and backward, and pixels are 1, or
    # divisible by 16, or other. Nothing else may depend on the number of anything.
    allowed = {"pick": 2, "detect": 2, "lose": 4, "paste": 2}
    new = {launch.variant: launch.kernel for launch in launches if launch.variant not in known}
    assert len(new) <= allowed.get(name, 0), sorted(new.values())


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def whole(*shape):
    return meta(*shape, dtype=torch.int64)


MILLION = 1_000_000
HUGE = {
    "wide_iou": lambda: gpu("box_iou").box_iou(meta(1000, 4), meta(2 * MILLION, 4)),
    "wider_iou": lambda: gpu("box_iou").box_iou(meta(2, 4), meta(20 * MILLION, 4)),
    "rotated_iou": lambda: gpu("box_iou_rotated").box_iou_rotated(
        meta(2, 5), meta(20 * MILLION, 5)
    ),
    "matches": lambda: gpu("matcher").matcher(meta(1000, 3 * MILLION), [0.5], [0, 1], True),
    "large_masks": lambda: gpu("paste_masks").paste_masks(
        meta(300, 28, 28), meta(300, 4), 4000, 3000, 0.5
    ),
    "many_masks": lambda: gpu("paste_masks").paste_masks(
        meta(70_000, 28, 28), meta(70_000, 4), 8, 8, 0.5
    ),
    "logits": lambda: gpu("sigmoid_focal_loss").sigmoid_focal_loss(
        meta(40 * MILLION, 80), whole(40 * MILLION), 0.25, 2.0
    ),
    "many_rois": lambda: gpu("roi_align").roi_align(
        meta(8, 256, 3000, 3000), meta(100_000, 5), 7, 7, 0.25, 0, True
    ),
    "many_bins": lambda: gpu("roi_align").roi_align(
        meta(1, 2048, 9, 9), meta(2, 5), 96, 96, 0.25, 0, True
    ),
    "many_rotated_bins": lambda: gpu("roi_align_rotated").roi_align_rotated(
        meta(1, 2048, 9, 9), meta(2, 6), 96, 96, 0.25, 0
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_no_grid_is_larger_than_a_gpu_takes(name, monkeypatch):
    with gpu_stand_in(monkeypatch) as launches:
        HUGE[name]()
    assert launches and [launch.problem() for launch in launches if launch.problem()] == []


def test_pixels_that_32_bits_do_not_count_are_left_to_pytorch(monkeypatch):
    calls = []
    op = gpu("paste_masks")
    monkeypatch.setattr(op, "paste_masks_reference", lambda *arguments: calls.append(arguments))
    with gpu_stand_in(monkeypatch) as launches:
        op.paste_masks(meta(1, 28, 28), meta(1, 4), 50_000, 50_000, 0.5)
    assert len(calls) == 1 and not launches


@pytest.mark.parametrize(("scale", "launched"), [(0.25, 1), (1 / 3, 0)])
def test_a_scale_that_float32_does_not_hold_is_left_to_pytorch(scale, launched, monkeypatch):
    # Triton takes any number as float32; the interpreter does not.
    maps, rois = torch.rand(1, 2, 5, 4, dtype=torch.float64), torch.rand(3, 5)
    with gpu_stand_in(monkeypatch) as launches:
        gpu("roi_align").roi_align(maps, rois, 2, 2, scale, 2, True)
    assert len(launches) == launched
