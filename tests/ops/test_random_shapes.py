"""Kernels against the reference at shapes, sizes and values that Hypothesis makes up."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops_contract import (
    Kernel,
    check_against_reference,
    generator,
    laid_out,
    random_boxes,
    random_rotated_boxes,
    with_images,
)

from detectron2.ops import batched_nms, box_iou_rotated, deform_conv, dispatch, nms, roi_align

NUMBA = Kernel("numba", "cpu")
# The same examples in every run, and no files written.
examples = partial(
    settings,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
sizes, seeds = st.integers(1, 20), st.integers(0, 10**6)
memories = st.sampled_from(["contiguous", "channels_last", "strided"])


def feature_map(shape, memory, seed):
    return laid_out(torch.randn(shape, generator=generator("map", seed)), memory)


@examples(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 37), sizes, sizes),
    count=st.integers(0, 12),
    bins=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    scale=st.sampled_from([1.0, 0.5, 0.25, 1 / 3]),
    ratio=st.integers(0, 4),
    aligned=st.booleans(),
    on_grid=st.booleans(),
    memory=memories,
    seed=seeds,
)
def test_roi_align(shape, count, bins, scale, ratio, aligned, on_grid, memory, seed):
    features = feature_map(shape, memory, seed).requires_grad_(True)
    boxes = random_boxes(count, 1.2 * max(shape[2:]) / scale, seed=seed)
    # On whole cells many samples lie exactly on a cell, or on the border of the map.
    boxes = boxes.round() if on_grid else boxes
    rois = with_images(boxes, shape[0], seed)
    op = partial(
        roi_align, output_size=bins, spatial_scale=scale, sampling_ratio=ratio, aligned=aligned
    )
    # A small map takes the gradient of a thousand samples in each of its cells.
    check_against_reference(op, NUMBA, features, rois, leaves=("input",), slack=10)


@examples(max_examples=80)
@given(
    count=st.integers(0, 150),
    extent=st.sampled_from([2.0, 20.0, 500.0]),
    threshold=st.floats(0, 1, width=32),
    classes=st.sampled_from([1, 4, 10**12]),
    on_grid=st.booleans(),
    levels_of_score=st.sampled_from([2, 10**6]),
    seed=seeds,
)
def test_nms(count, extent, threshold, classes, on_grid, levels_of_score, seed):
    # On a grid boxes coincide, and IoUs are simple fractions; with two scores nearly all tie.
    random = generator("nms", seed)
    boxes = random_boxes(count, extent, seed=seed)
    boxes = boxes.round() if on_grid else boxes
    scores = torch.randint(levels_of_score, (count,), generator=random).float()
    class_ids = torch.randint(-classes, classes, (count,), generator=random)
    with dispatch.use_implementation("reference"):
        expected = nms(boxes, scores, threshold), batched_nms(boxes, scores, class_ids, threshold)
    with NUMBA.active():
        assert torch.equal(nms(boxes, scores, threshold), expected[0])
        assert torch.equal(batched_nms(boxes, scores, class_ids, threshold), expected[1])


@examples(max_examples=60)
@given(
    counts=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    extent=st.sampled_from([1.0, 30.0, 1000.0]),
    step=st.sampled_from([1e-6, 15, 45, 90]),
    on_grid=st.booleans(),
    seed=seeds,
)
def test_box_iou_rotated(counts, extent, step, on_grid, seed):
    # Angles in steps, and sides on whole numbers: parallel, touching and coinciding edges.
    boxes = [
        random_rotated_boxes(count, extent, seed=seed + index) for index, count in enumerate(counts)
    ]
    for one in boxes:
        one[:, 4] = (one[:, 4] / step).round() * step
        one[:, :4] = one[:, :4].round() if on_grid else one[:, :4]
    actual = check_against_reference(box_iou_rotated, NUMBA, *boxes)
    assert ((actual >= 0) & (actual <= 1 + 1e-6)).all()
    torch.testing.assert_close(box_iou_rotated(*boxes[::-1]).T, actual, rtol=1e-5, atol=1e-6)


@examples(max_examples=40)
@given(
    images=st.integers(1, 2),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.sampled_from([4, 8, 20]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    offset_groups=st.sampled_from([1, 2, 4]),
    modulated=st.booleans(),
    memory=memories,
    seed=seeds,
)
def test_deform_conv(
    images, size, channels, kernel, stride, padding, dilation, groups, offset_groups, modulated,
    memory, seed,
):  # fmt: skip
    random = generator("deform", seed)
    out = [
        (side + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for side, taps in zip(size, kernel)
    ]
    if min(out) < 1:
        with pytest.raises(ValueError, match="does not fit into"):
            deform_conv(
                torch.zeros(1, 4, *size), torch.zeros(1, 1, 1, 1), torch.zeros(1, 4, *kernel),
                stride=stride, padding=padding, dilation=dilation,
            )  # fmt: skip
        return
    taps = offset_groups * kernel[0] * kernel[1]
    leaves = [
        feature_map((images, channels, *size), memory, seed),
        torch.randn(images, 2 * taps, *out, generator=random) * 2,
        torch.randn(8, channels // groups, *kernel, generator=random) / 4,
        torch.randn(8, generator=random),
    ]
    if modulated:
        leaves.append(torch.rand(images, taps, *out, generator=random))
    leaves = [leaf.requires_grad_(True) for leaf in leaves]
    op = partial(
        deform_conv, stride=stride, padding=padding, dilation=dilation, groups=groups,
        offset_groups=offset_groups,
    )  # fmt: skip
    names = ("input", "offset", "weight", "bias", "mask")[: len(leaves)]
    check_against_reference(op, NUMBA, *leaves, leaves=names, slack=10)
