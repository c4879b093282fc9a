import math
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from ops_contract import (
    Kernel,
    assert_close,
    check_against_reference,
    generator,
    laid_out,
    random_boxes,
    with_images,
)

from detectron2.ops import dispatch, multilevel_roi_align, roi_align


def random_map(shape, kernel, memory="contiguous", dtype=torch.float32, seed=0):
    values = torch.randn(shape, generator=generator("map", shape, seed)).to(kernel.device, dtype)
    return laid_out(values, memory).requires_grad_(True)


def by_hand(plane, box, bins, ratio):
    """ROIAlign of one channel and one box in the aligned frame, sample by sample."""
    height, width = plane.shape
    x0, y0, x1, y1 = (side - 0.5 for side in box)

    def value(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        down, across = y - top, x - left
        return (
            plane[top, left] * (1 - down) * (1 - across)
            + plane[top, right] * (1 - down) * across
            + plane[bottom, left] * down * (1 - across)
            + plane[bottom, right] * down * across
        )

    rows = ratio or math.ceil((y1 - y0) / bins)
    columns = ratio or math.ceil((x1 - x0) / bins)
    bin_height, bin_width = (y1 - y0) / bins, (x1 - x0) / bins
    result = torch.zeros(bins, bins, dtype=torch.float64)
    for i in range(bins):
        for j in range(bins):
            samples = [
                value(
                    y0 + (i + (a + 0.5) / rows) * bin_height,
                    x0 + (j + (b + 0.5) / columns) * bin_width,
                )
                for a in range(rows)
                for b in range(columns)
            ]
            result[i, j] = sum(samples) / max(len(samples), 1)
    return result


@pytest.mark.parametrize("ratio", [0, 2, 3])
@pytest.mark.parametrize("box", [(1.3, 2.1, 7.9, 5.2), (-4.0, -3.0, 20.0, 14.0), (3, 3, 3, 3)])
def test_reference_is_the_mean_of_bilinear_samples(box, ratio):
    plane = torch.rand(9, 12, generator=generator("plane"), dtype=torch.float64)
    rois = torch.tensor([[0.0, *box]], dtype=torch.float64)
    with dispatch.use_implementation("reference"):
        pooled = roi_align(plane[None, None], rois, 3, 1.0, ratio, aligned=True)
    torch.testing.assert_close(pooled[0, 0], by_hand(plane, box, 3, ratio))


def test_convention_a_linear_ramp_pools_to_the_bin_centers():
    ramp = torch.arange(20.0).expand(1, 1, 20, 20).clone()
    rois = torch.tensor([[0.0, 4.0, 4.0, 12.0, 12.0]])
    pooled = roi_align(ramp, rois, 2, 1.0, 2, aligned=True)
    # Bins are 4 wide with centers at 6 and 10; cell c holds the value c at c + 0.5.
    assert pooled[0, 0].tolist() == [[5.5, 9.5], [5.5, 9.5]]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_matches_reference(kernel, count, memory, ratio, aligned):
    features = random_map((2, 5, 24, 30), kernel, memory)
    rois = with_images(random_boxes(count, device=kernel.device), 2)
    op = partial(
        roi_align, output_size=(7, 5), spatial_scale=0.25, sampling_ratio=ratio, aligned=aligned
    )
    check_against_reference(op, kernel, features, rois, leaves=("input",))


def test_matches_reference_in_every_dtype(kernel, dtype, memory):
    features = random_map((2, 19, 24, 30), kernel, memory, dtype)
    rois = with_images(random_boxes(7, device=kernel.device), 2)
    rois = rois.double() if dtype == torch.float64 else rois
    op = partial(roi_align, output_size=3, spatial_scale=0.25, sampling_ratio=0, aligned=True)
    check_against_reference(op, kernel, features, rois, leaves=("input",))


@pytest.mark.parametrize("channels", [1, 16, 33, 70])
def test_matches_reference_for_any_number_of_channels(kernel, channels, memory):
    features = random_map((1, channels, 13, 9), kernel, memory)
    rois = with_images(random_boxes(9, 40, device=kernel.device), 1)
    op = partial(roi_align, output_size=2, spatial_scale=0.25, sampling_ratio=2, aligned=True)
    check_against_reference(op, kernel, features, rois, leaves=("input",))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_odd_boxes_match_reference(kernel, ratio, aligned, memory):
    boxes = [
        [0, 0, 0, 0],  # no area
        [10, 10, 10, 20],  # no width
        [20, 20, 10, 10],  # corners swapped
        [-90, -90, -50, -50],  # outside of the map
        [500, 500, 600, 600],
        [-12, -12, 44, 36],  # larger than the map
        [-4, -4, 0, 0],  # the border: up to one cell outside takes the border's value
        [31.99, 23.99, 36, 28],
        [0, 0, 32, 24],  # all of the map
        [0, 10, 32, 10.5],  # a bin far wider than high
    ]
    features = random_map((1, 3, 6, 8), kernel, memory)
    rois = with_images(torch.tensor(boxes, device=kernel.device, dtype=torch.float32), 1)
    op = partial(
        roi_align,
        output_size=(3, 2),
        spatial_scale=0.25,
        sampling_ratio=ratio,
        aligned=aligned,
    )
    check_against_reference(op, kernel, features, rois, leaves=("input",))


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_convention_boxes_that_are_not_finite_give_zeros(kernel, bad, ratio):
    features = random_map((1, 3, 24, 30), kernel)
    rois = torch.tensor([[0, 0, bad, 10, 10], [0, 0, 0, bad, bad]], device=kernel.device)
    op = partial(roi_align, output_size=2, sampling_ratio=ratio, aligned=True)
    pooled = check_against_reference(op, kernel, features, rois, leaves=("input",))
    assert not pooled.any()


def test_convention_samples_up_to_one_cell_outside_take_the_value_of_the_border(kernel):
    features = torch.full((1, 1, 4, 6), 2.0, device=kernel.device)
    # One bin with one sample, at the center of the box; cell centers are at integers.
    edges = [(-1.0, 2.0), (-1.001, 0.0), (4.0, 2.0), (4.001, 0.0)]
    rois = [[0, 2.0, y - 1, 4.0, y + 1] for y, _ in edges]
    with kernel.active():
        pooled = roi_align(features, torch.tensor(rois, device=kernel.device), 1, 1.0, 1)
    assert pooled.flatten().tolist() == [value for _, value in edges]


@pytest.mark.parametrize("aligned", [True, False])
def test_a_box_that_dwarfs_the_map_matches_reference(kernel, aligned):
    # Most of its samples are not on the map, and are not visited.
    features = random_map((1, 3, 2, 3), kernel)
    boxes = [[0.0, -20, -15, 21, 25], [0.0, -1, -90, 4, 2], [0.0, -40, 0, 3, 2]]
    if kernel.is_hurried:  # one axis at a time
        boxes = boxes[1:]
    rois = torch.tensor(boxes, device=kernel.device)
    op = partial(roi_align, output_size=(2, 1), sampling_ratio=0, aligned=aligned)
    check_against_reference(op, kernel, features, rois, leaves=("input",))


def test_sample_positions_round_as_in_the_reference():
    from detectron2.ops.roi_align.reference import sample_positions
    from detectron2.ops.roi_align.tables import axis_cells

    roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 1)
    boxes = torch.rand(300, 4, generator=generator("positions")) * 90
    _, y, _ = sample_positions(boxes, 7, 7, 1)
    cells, weights = np.zeros((7, 2), np.int64), np.zeros((7, 2), np.float32)
    for box, positions in zip(boxes.numpy(), y[:, :, 0].numpy(), strict=True):
        axis_cells(box[0], box[2], 7, 1, 1000, cells, weights, np.zeros(7, np.int64))
        assert np.array_equal(cells[:, 0] + weights[:, 1], positions)
        assert np.array_equal(weights[:, 1], positions - np.floor(positions))


def test_a_box_far_larger_than_the_map_does_not_hang(kernel):
    features = torch.ones(1, 2, 8, 8, device=kernel.device)
    rois = torch.tensor([[0.0, -1e7, -3.0, 1e7, 3.0]], device=kernel.device)
    with kernel.active():
        pooled = roi_align(features, rois, 2, 1.0, 0, aligned=True)
    # Of about 1e7 samples of a bin in a row ten at most are on the map.
    assert pooled.isfinite().all() and pooled.abs().max() < 1e-5


def test_convention_output_and_gradient_keep_the_memory_format_of_the_input(kernel):
    rois = with_images(random_boxes(4, device=kernel.device), 1)
    for memory, expected in (
        ("contiguous", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    ):
        features = random_map((1, 6, 24, 30), kernel, memory)
        with kernel.active():
            pooled = roi_align(features, rois, 3, 0.25)
            pooled.sum().backward()
        assert pooled.is_contiguous(memory_format=expected)
        assert features.grad.is_contiguous(memory_format=expected)


def test_half_precision_features_keep_the_precision_of_float_boxes(kernel):
    # 301.5 is not a bfloat16: boxes of the type of the features would be off by half a cell.
    ramp = (torch.arange(400.0) / 4).expand(1, 1, 4, 400).to(kernel.device, torch.bfloat16)
    rois = torch.tensor([[0, 300.5, 0, 302.5, 4]], device=kernel.device)
    with kernel.active():
        pooled = roi_align(ramp, rois, 1, 1.0, 2, aligned=True)
    assert abs(pooled.item() - 301 / 4) <= 0.25


@pytest.mark.parametrize("channels", [45, 64])
@pytest.mark.parametrize("boxes", [3, 40])
def test_a_cpu_reads_bfloat16_as_it_lies_and_rounds_once(memory, channels, boxes):
    # Of the CPU kernel alone: Triton's interpreter cuts bfloat16 off instead of rounding it.
    kernel = Kernel("numba", "cpu")
    features = random_map((2, channels, 24, 30), kernel, memory, torch.bfloat16).detach()
    rois = with_images(random_boxes(boxes), 2)
    with kernel.active():
        pooled = roi_align(features, rois, 3, 0.25, 2, aligned=True)
        exact = roi_align(features.float(), rois, 3, 0.25, 2, aligned=True)
    assert torch.equal(pooled, exact.bfloat16())


def pyramid(kernel, memory="contiguous", dtype=torch.float32):
    sizes = [(24, 30), (12, 15), (6, 8)]
    return [random_map((2, 5, *size), kernel, memory, dtype, seed=size[0]) for size in sizes]


SCALES = [0.25, 0.125, 0.0625]


@pytest.mark.parametrize("ratio", [0, 2])
def test_all_levels_in_one_call_match_reference(kernel, count, memory, ratio):
    levels = torch.randint(3, (count,), generator=generator("levels")).to(kernel.device)
    rois = with_images(random_boxes(count, device=kernel.device), 2)
    op = partial(multilevel_roi_align, output_size=4, spatial_scales=SCALES, sampling_ratio=ratio)
    leaves = ("level 0", "level 1", "level 2")
    features = pyramid(kernel, memory)
    check_against_reference(op, kernel, features, rois, levels, leaves=leaves)


# One more than a launch of the GPU kernel takes.
FIVE = [(24, 30), (12, 15), (6, 8), (3, 4), (2, 2)]


def test_all_levels_match_reference_in_every_dtype(kernel, dtype):
    maps = [random_map((2, 5, *size), kernel, "strided", dtype, seed=size[0]) for size in FIVE]
    levels = torch.tensor([2, 0, 4, 3, 1, 5], device=kernel.device)
    rois = with_images(random_boxes(6, device=kernel.device), 2)
    rois = rois.double() if dtype == torch.float64 else rois
    scales = [0.25, 0.125, 0.0625, 1 / 32, 1 / 64]
    op = partial(multilevel_roi_align, output_size=4, spatial_scales=scales, aligned=True)
    leaves = tuple(f"level {level}" for level in range(5))
    check_against_reference(op, kernel, maps, rois, levels, leaves=leaves)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_channels_first_maps_have_the_bits_of_channels_last_ones(threads, monkeypatch):
    # With one and two threads strip by strip, the last one of 11 channels; with four at once.
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    sizes = [(24, 30), (12, 15), (6, 8)]
    maps = [
        torch.randn(3, 75, *size, generator=generator("strips", size)).double() for size in sizes
    ]
    levels = torch.tensor([0, 2, 0, 1, 0]).repeat(40)  # 40 boxes on each of two levels
    rois = with_images(random_boxes(200, 90), 3).double()
    rois[:, 0] = torch.tensor([2, 0, 0, 2, 0, 0, 0, 2]).repeat(25)  # none on image 1
    pool = partial(multilevel_roi_align, rois=rois, levels=levels, output_size=(3, 5))
    kernel = Kernel("numba", "cpu")
    with kernel.active():
        first = pool(maps, spatial_scales=SCALES)
        last = pool([laid_out(one, "channels_last") for one in maps], spatial_scales=SCALES)
    assert torch.equal(first, last)
    with dispatch.use_implementation("reference"):
        assert_close(first, pool(maps, spatial_scales=SCALES))


def test_a_level_without_cells_gives_zeros(kernel):
    maps = [torch.ones(1, 2, *size, device=kernel.device) for size in ((0, 3), (4, 4))]
    # Some of its samples are less than a cell away from the map.
    rois = with_images(torch.tensor([[-3.0, -3, 3, 3]] * 2, device=kernel.device), 1)
    levels = torch.tensor([0, 1], device=kernel.device)
    with kernel.active():
        pooled = multilevel_roi_align(maps, rois, levels, 2, [1.0, 1.0], 3, True)
    assert not pooled[0].any() and pooled[1, :, 1, 1].all()


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed here")
@pytest.mark.parametrize(("count", "launches"), [(1, 1), (4, 1), (5, 2)])
def test_up_to_four_levels_are_one_launch_on_a_gpu(monkeypatch, count, launches):
    from detectron2.ops.roi_align import gpu

    calls = []

    class Recorder:
        def __getitem__(self, grid):
            return lambda *args, **options: calls.append((args[7], args[8], options["BACKWARD"]))

    monkeypatch.setattr(gpu, "visit_samples", Recorder())
    maps = [torch.zeros(1, 2, *size) for size in FIVE[:count]]
    rois, levels, scales = torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64), [0.5] * count
    pooled = gpu.multilevel_roi_align(maps, rois, levels, 2, 2, scales, 2, True)
    sizes = [1, *(side for size in FIVE[:count] for side in size)]
    gpu.multilevel_roi_align_backward(pooled, rois, levels, sizes, scales, 2, True, [False] * count)
    ranges = [(first, min(count - first, 4)) for first in range(0, count, 4)]
    assert len(ranges) == launches
    assert calls == [(*levels, way) for way in (False, True) for levels in ranges]


def test_cells_that_lie_more_than_2_to_the_31_numbers_apart_are_read(kernel):
    # 4 GB of addresses, of which three pages are used: a side and a stride fit 32 bits, their
    # product does not.
    room = torch.empty(2**31 + 8, dtype=torch.bfloat16, device=kernel.device)
    maps = room.as_strided((1, 2, 3, 2), (1, 2, 2**30, 1))
    maps.copy_(torch.rand(maps.shape, generator=generator("far")))
    rois = torch.tensor([[0, 0.0, 0.0, 2.0, 3.0]], device=kernel.device)
    op = partial(roi_align, output_size=(3, 2), sampling_ratio=1, aligned=True)
    pooled = check_against_reference(op, kernel, maps, rois)
    torch.testing.assert_close(pooled[0], maps[0])


def test_convention_a_box_of_no_level_gives_zeros(kernel):
    levels = torch.tensor([-1, 1, 7], device=kernel.device)
    rois = with_images(random_boxes(3, 60, device=kernel.device), 2)
    op = partial(multilevel_roi_align, output_size=4, spatial_scales=SCALES)
    leaves = ("level 0", "level 1", "level 2")
    pooled = check_against_reference(op, kernel, pyramid(kernel), rois, levels, leaves=leaves)
    assert not pooled[0].any() and pooled[1].any() and not pooled[2].any()


def test_each_box_reads_only_its_level(kernel):
    levels = torch.tensor([0, 1, 2, 1], device=kernel.device)
    rois = with_images(random_boxes(4, device=kernel.device), 2)
    features = pyramid(kernel)
    with kernel.active():
        pooled = multilevel_roi_align(features, rois, levels, 4, SCALES, 2, True)
        for index, level in enumerate(levels.tolist()):
            one = roi_align(features[level], rois[index : index + 1], 4, SCALES[level], 2, True)
            assert_close(pooled[index : index + 1], one)


def test_gradient_is_right_twice(kernel):
    if kernel.is_interpreted:
        pytest.skip("numeric gradients take minutes in the interpreter")
    features = [torch.randn(1, 2, 6, 5, device=kernel.device, dtype=torch.float64) for _ in "ab"]
    features = [feature.requires_grad_(True) for feature in features]
    rois = torch.tensor([[0, 0.5, 1.0, 4.2, 5.5], [0, 1, 2, 3, 3]], device=kernel.device).double()
    levels = torch.tensor([1, 0], device=kernel.device)

    def op(*maps):
        return multilevel_roi_align(maps, rois, levels, 2, [1.0, 0.5], 2, True)

    with kernel.active():
        assert torch.autograd.gradcheck(op, features)
        assert torch.autograd.gradgradcheck(op, features)
        assert torch.autograd.gradgradcheck(
            lambda one: roi_align(one, rois, 2, 1.0, 0, False), features[:1]
        )


# Strides are what the fake has to tell of each layout.
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_torch_op_is_registered_correctly(kernel, memory_format):
    first, second = (random_map((2, 5, *size), kernel) for size in ((6, 8), (3, 4)))
    first = first.detach().contiguous(memory_format=memory_format).requires_grad_(True)
    rois = with_images(random_boxes(2, 24, device=kernel.device), 2)
    levels = torch.tensor([1, 0], device=kernel.device)
    ops = torch.ops.detectron2
    with kernel.active():
        torch.library.opcheck(ops.roi_align, (first, rois, 3, 2, 0.25, 1, True))
        torch.library.opcheck(
            ops.multilevel_roi_align, ([first, second], rois, levels, 3, 2, SCALES[:2], 1, False)
        )
        grad = torch.randn(2, 5, 3, 2, device=kernel.device, requires_grad=True)
        torch.library.opcheck(
            ops.roi_align_backward, (grad, rois, list(first.shape), 0.25, 1, True, False)
        )
        torch.library.opcheck(
            ops.multilevel_roi_align_backward,
            (grad, rois, levels, [2, 6, 8, 3, 4], SCALES[:2], 1, True, [True, False]),
        )


def test_backward_reference_is_the_gradient_of_the_reference():
    # Runs where no kernel loads; autograd of the reference is the oracle.
    features = torch.randn(2, 3, 9, 8, requires_grad=True)
    rois = with_images(random_boxes(6, 40), 2)
    with dispatch.use_implementation("reference"):
        pooled = roi_align(features, rois, 3, 0.25, 0, True)
        grad = torch.randn_like(pooled)
        (expected,) = torch.autograd.grad(pooled, features, grad)
        actual = torch.ops.detectron2.roi_align_backward(
            grad, rois, [2, 3, 9, 8], 0.25, 0, True, True
        )
    assert_close(actual, expected)
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_compiles_without_a_graph_break():
    features = torch.randn(1, 3, 9, 8, requires_grad=True)
    rois = with_images(random_boxes(6, 40), 1)
    compiled = torch.compile(
        lambda one: roi_align(one, rois, 3, 0.25, 0, True), fullgraph=True, backend="aot_eager"
    )
    assert_close(compiled(features), roi_align(features, rois, 3, 0.25, 0, True))


def test_wrong_arguments_are_named():
    features, rois = torch.zeros(2, 3, 8, 8), torch.zeros(1, 5)
    with pytest.raises(ValueError, match=r"input has shape \(3, 8, 8\); expected \(N, C, H, W\)"):
        roi_align(features[0], rois, 7)
    with pytest.raises(ValueError, match=r"rois has shape \(1, 4\); expected \(K, 5\)"):
        roi_align(features, rois[:, 1:], 7)
    with pytest.raises(TypeError, match="rois has dtype torch.int64"):
        roi_align(features, rois.long(), 7)
    with pytest.raises(ValueError, match="output_size is 0"):
        roi_align(features, rois, 0)
    with pytest.raises(ValueError, match="input is on cpu and rois on meta"):
        roi_align(features, rois.to("meta"), 7)
    with pytest.raises(ValueError, match="There are 2 feature maps and 1 spatial scales"):
        multilevel_roi_align([features, features], rois, torch.zeros(1).long(), 7, [1.0])
    with pytest.raises(ValueError, match=r"features\[1\] is torch.float32 of shape \(2, 4, 8, 8\)"):
        other = torch.zeros(2, 4, 8, 8)
        multilevel_roi_align([features, other], rois, torch.zeros(1).long(), 7, [1.0, 0.5])
    with pytest.raises(ValueError, match="levels is torch.float32"):
        multilevel_roi_align([features], rois, torch.zeros(1), 7, [1.0])


def test_an_image_index_out_of_range_is_an_error_on_cpu():
    rois = torch.tensor([[2.0, 0, 0, 4, 4]])
    with pytest.raises(ValueError, match="rois name images 2 to 2, but the input holds 2 images"):
        roi_align(torch.zeros(2, 3, 8, 8), rois, 7)


def test_cells_that_no_box_needs_do_not_reach_the_result(monkeypatch):
    # Channels-first maps are converted only where boxes are; the rest of the memory is what it
    # was. Bins of fewer than four cells once read it with weight 0, and 0 * NaN is NaN.
    class WorstNumpy:
        def __getattr__(self, name):
            return getattr(np, name)

        def empty(self, shape, dtype):
            return np.full(shape, np.nan, dtype)

    monkeypatch.setattr("detectron2.ops.layout.np", WorstNumpy())
    features = torch.rand(1, 8, 32, 32)
    for box in ([31.2, 31.2, 33.0, 33.0], [26.2, 31.2, 31.0, 33.0]):
        for ratio in (0, 1, 2):
            pooled = roi_align(features, torch.tensor([[0, *box]]), (2, 2), 1.0, ratio, True)
            assert pooled.isfinite().all()


def test_a_scale_that_float32_does_not_hold_is_exact_in_float64(kernel):
    maps = random_map((1, 1, 4, 5), kernel, dtype=torch.float64)
    rois = torch.tensor([[0, 1.0, 2.0, 9.0, 8.0]], dtype=torch.float64, device=kernel.device)
    op = partial(roi_align, output_size=1, spatial_scale=1 / 3, sampling_ratio=1, aligned=True)
    check_against_reference(op, kernel, maps, rois, leaves=("input",))
