import pytest
import torch
from ops_contract import generator, random_boxes

from detectron2.ops import box_iou, dispatch, matcher

INTERVALS = [([0.3, 0.7], [0, -1, 1]), ([0.5], [0, 1]), ([0.1, 0.2, 0.5], [-1, 0, -1, 1])]


def qualities(rows, columns, device="cpu", dtype=torch.float32):
    """IoUs in steps, so that many are equal, and with some on the thresholds."""
    low = torch.rand(rows, 2, generator=generator("low", rows)) * 20 + 10
    objects = torch.cat([low, low + 20], dim=1)
    iou = box_iou(objects, random_boxes(columns, 60, seed=1))
    return ((iou * 10).round() / 10).to(device, dtype)


def assert_matches_the_reference(kernel, quality, thresholds, labels, low_quality):
    with dispatch.use_implementation("reference"):
        expected = matcher(quality, thresholds, labels, low_quality)
    with kernel.active():
        actual = matcher(quality, thresholds, labels, low_quality)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.dtype == theirs.dtype and mine.device == theirs.device
        assert torch.equal(mine, theirs)
    return actual


def by_definition(quality, thresholds, labels, low_quality):
    columns = list(zip(*quality, strict=True))
    matches = [max(range(len(column)), key=column.__getitem__) for column in columns]
    result = []
    for column in columns:
        result.append(labels[sum(max(column) >= bound for bound in thresholds)])
        if low_quality and any(q == max(row) for q, row in zip(column, quality, strict=True)):
            result[-1] = 1
    return matches, result


@pytest.mark.parametrize("implementation", ["numba", "reference"])
@pytest.mark.parametrize("low_quality", [True, False])
def test_is_the_definition(implementation, low_quality):
    quality = qualities(6, 40, dtype=torch.float64)
    with dispatch.use_implementation(implementation):
        matches, labels = matcher(quality, [0.3, 0.7], [0, -1, 1], low_quality)
    expected = by_definition(quality.tolist(), [0.3, 0.7], [0, -1, 1], low_quality)
    assert (matches.tolist(), labels.tolist()) == expected
    assert len(labels.unique()) > 1


@pytest.mark.parametrize("intervals", INTERVALS, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_matches_reference(kernel, count, rows, intervals):
    for low_quality in (True, False):
        quality = qualities(rows, count, kernel.device)
        assert_matches_the_reference(kernel, quality, *intervals, low_quality)


@pytest.mark.parametrize("columns", [255, 300, 4097, 9000])
def test_blocks_of_columns_join_seamlessly(kernel, columns):
    quality = qualities(4, columns, kernel.device)
    quality = quality[:2] if kernel.is_interpreted else quality
    _, labels = assert_matches_the_reference(kernel, quality, [0.5], [0, 1], True)
    assert 0 < labels.sum() < columns


def test_every_dtype_and_layout_matches_reference(kernel, dtype):
    quality = qualities(5, 70, kernel.device, dtype)
    strided = torch.stack([quality, quality], 2)[:, :, 1]
    for one in (quality, strided, quality.T.contiguous().T):
        assert_matches_the_reference(kernel, one, [0.3, 0.7], [0, -1, 1], True)


def test_convention_a_bound_belongs_to_the_interval_above(kernel, dtype):
    # The bound is rounded to the type of the qualities, as a quality that equals it was.
    quality = torch.tensor([[0.29, 0.3, 0.69, 0.7]], dtype=dtype, device=kernel.device)
    with kernel.active():
        assert matcher(quality, [0.3, 0.7], [0, -1, 1])[1].tolist() == [0, -1, -1, 1]


def test_convention_the_first_of_equal_elements_is_matched(kernel):
    quality = torch.full((3, 40), 0.5, device=kernel.device)
    with kernel.active():
        assert not matcher(quality, [0.5], [0, 1])[0].any()


def test_quirk_an_element_that_nothing_overlaps_makes_everything_positive(kernel):
    quality = torch.zeros(2, 30, device=kernel.device)
    with kernel.active():
        assert matcher(quality, [0.5], [0, 1], True)[1].tolist() == [1] * 30


def test_random_qualities_match_reference(kernel):
    quality = torch.rand(3, 700, generator=generator("quality")).to(kernel.device)
    assert_matches_the_reference(kernel, quality, [0.3, 0.7], [0, -1, 1], True)


def test_torch_op_is_registered_correctly(kernel):
    quality = qualities(2, 5, kernel.device)
    with kernel.active():
        torch.library.opcheck(torch.ops.detectron2.matcher, (quality, [0.3, 0.7], [0, -1, 1], True))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"quality has shape \(3,\); expected \(M, N\)"):
        matcher(torch.zeros(3), [0.5], [0, 1])
    with pytest.raises(TypeError, match="quality has dtype torch.int64"):
        matcher(torch.zeros(3, 2).long(), [0.5], [0, 1])
    with pytest.raises(ValueError, match=r"1 thresholds make 2 intervals, but there are 3 labels"):
        matcher(torch.zeros(3, 2), [0.5], [0, -1, 1])
