import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from detectron2.structures import Keypoints, heatmaps_to_keypoints
from detectron2.structures import keypoints as keypoints_module


def enlarge_one_by_one(maps, rois):
    """The definition, with PyTorch's own bicubic interpolation of one box after the other."""
    found = torch.zeros(*maps.shape[:2], 4)
    for i, (x0, y0, x1, y1) in enumerate(rois.tolist()):
        width, height = max(x1 - x0, 1), max(y1 - y0, 1)
        columns, rows = math.ceil(width), math.ceil(height)
        enlarged = F.interpolate(maps[i][None], (rows, columns), mode="bicubic")[0]
        for k, heatmap in enumerate(enlarged):
            logit, place = heatmap.flatten().max(0)
            found[i, k, 0] = x0 + (place % columns + 0.5) * width / columns
            found[i, k, 1] = y0 + (place // columns + 0.5) * height / rows
            found[i, k, 2] = logit
            found[i, k, 3] = logit.exp() / maps[i, k].exp().sum()
    return found


def random_case(num_boxes, size, smallest, largest, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(num_boxes, 5, size, size, generator=generator) * 3
    corners = torch.rand(num_boxes, 2, generator=generator) * 100
    sizes = torch.rand(num_boxes, 2, generator=generator) * (largest - smallest) + smallest
    return maps, torch.cat((corners, corners + sizes), dim=1)


@pytest.mark.parametrize(
    ("num_boxes", "size", "smallest", "largest"),
    [(0, 14, 1, 2), (1, 14, 200, 201), (7, 14, 0, 60), (20, 8, 5, 300), (3, 28, 3, 10)],
)
def test_the_highest_place_is_that_of_the_enlarged_heatmap(
    num_boxes, size, smallest, largest, device
):
    maps, rois = random_case(num_boxes, size, smallest, largest)
    found = heatmaps_to_keypoints(maps.to(device), rois.to(device)).cpu()
    assert found.shape == (num_boxes, 5, 4)
    assert_close(found, enlarge_one_by_one(maps, rois), rtol=1e-4, atol=1e-3)


def test_places_do_not_depend_on_how_many_are_enlarged_at_a_time(monkeypatch):
    maps, rois = random_case(12, 14, 5, 60)
    together = heatmaps_to_keypoints(maps, rois)
    monkeypatch.setattr(keypoints_module, "ENLARGED_VALUES_CPU", 900)
    assert_close(heatmaps_to_keypoints(maps, rois), together)


def test_memory_is_bounded_for_many_boxes(monkeypatch):
    maps, rois = random_case(30, 14, 20, 90)
    largest = []
    measured = keypoints_module._highest

    def measure(maps, cells, columns, rows, maps_at_once):
        largest.append(len(maps) * maps_at_once * columns * rows)
        return measured(maps, cells, columns, rows, maps_at_once)

    monkeypatch.setattr(keypoints_module, "_highest", measure)
    monkeypatch.setattr(keypoints_module, "ENLARGED_VALUES_CPU", 20_000)
    heatmaps_to_keypoints(maps, rois)
    assert 1 < len(largest) <= 30
    assert max(largest) <= 20_000


def test_a_single_peak_is_found_at_the_centre_of_its_cell():
    maps = torch.full((1, 1, 10, 10), -5.0)
    maps[0, 0, 3, 7] = 5.0
    # Each cell covers 11 x 11 pixels; the sixth of them is its centre.
    found = heatmaps_to_keypoints(maps, torch.tensor([[100.0, 50, 210, 160]]))[0, 0]
    score = math.exp(5) / (math.exp(5) + 99 * math.exp(-5))
    assert_close(found, torch.tensor([100 + 7 * 11 + 5.5, 50 + 3 * 11 + 5.5, 5.0, score]))


def test_half_precision_heatmaps_are_enlarged_in_float32():
    maps, rois = random_case(3, 14, 5, 60)
    found = heatmaps_to_keypoints(maps.half(), rois)
    assert found.dtype == torch.float32
    assert_close(found, heatmaps_to_keypoints(maps.half().float(), rois))


class TestKeypoints:
    def test_heatmap_indices_count_cells_row_by_row(self, device):
        points = [[[0.0, 0, 2], [9.9, 9.9, 2], [5, 2.5, 1], [10, 10, 2]]]
        indices, valid = Keypoints(torch.tensor(points, device=device)).to_heatmap(
            torch.tensor([[0.0, 0, 10, 10]], device=device), 4
        )
        assert indices.tolist() == [[0, 15, 1 * 4 + 2, 15]]
        assert valid.tolist() == [[1, 1, 1, 1]]
        assert indices.dtype == valid.dtype == torch.int64

    def test_keypoints_outside_or_without_label_are_not_valid(self):
        points = [[[-1.0, 5, 2], [5, 10.5, 2], [5, 5, 0], [5, 5, 1]]]
        indices, valid = Keypoints(points).to_heatmap(torch.tensor([[0.0, 0, 10, 10]]), 4)
        assert valid.tolist() == [[0, 0, 0, 1]]
        assert indices[0, :3].tolist() == [0, 0, 0]

    def test_a_box_without_area_has_no_valid_keypoint_but_its_own_corner(self):
        points = [[[3.0, 3, 2], [4, 3, 2], [2, 2, 2]]]
        _, valid = Keypoints(points).to_heatmap(torch.tensor([[3.0, 3, 3, 3]]), 4)
        assert valid.tolist() == [[1, 0, 0]]

    def test_selection_cat_and_copies(self):
        keypoints = Keypoints(np.arange(24).reshape(4, 2, 3))
        assert keypoints.tensor.dtype == torch.float32
        assert keypoints[1].tensor.shape == (1, 2, 3)
        assert keypoints[torch.tensor([True, False, False, True])].tensor[1, 0, 0] == 18
        assert len(Keypoints.cat([keypoints, keypoints[:1]])) == 5
        for copied in (copy.deepcopy(keypoints), pickle.loads(pickle.dumps(keypoints))):
            copied.tensor.zero_()
        assert keypoints.tensor.any()
        assert keypoints.to("cpu").device == torch.device("cpu")

    @pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 0, 2)])
    def test_a_wrong_shape_is_named_in_the_error(self, shape):
        with pytest.raises(AssertionError, match=r"\(N, K, 3\), not"):
            Keypoints(np.ones(shape))


def _refuse():
    raise RuntimeError("you have used mix of the legacy and new APIs")


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", _refuse, False),
        ("cuda", _refuse, True),
        ("cuda", lambda: "high", True),
        ("cuda", lambda: "highest", False),
    ],
    ids=["cpu", "newer settings", "TF32", "float32"],
)
def test_peaks_are_looked_for_in_double_precision_where_products_may_be_coarse(
    device, precision, expected, monkeypatch
):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", precision)
    assert keypoints_module._products_are_coarse(torch.device(device)) is expected
