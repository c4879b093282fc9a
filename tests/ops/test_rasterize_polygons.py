import hotcoco.mask
import numpy as np
import pycocotools.mask
import pytest
import torch

from detectron2.ops import dispatch, rasterize_polygons

# pycocotools, the oracle, has an __array__ of the time before NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def polygon_of_kind(kind, rng):
    """(V, 2) corners that are ugly in one way each."""
    count = int(rng.integers(1, 12))
    corners = rng.uniform(-20, 80, (count, 2))
    return {
        "anywhere": corners,
        "integer": corners.round(),
        "on pixel centres": corners.round() + 0.5,
        "on fifths": (corners * 5).round() / 5,
        "between fifths": (corners * 5).round() / 5 + 0.1,
        "one point": np.repeat(corners[:1], count, axis=0),
        "vertical": np.stack((np.full(count, corners[0, 0]), corners[:, 1]), axis=1),
        "huge": corners * 1000,
        "tiny": corners / 30 - 1,
        "left of the image": corners - 100,
        "around the image": np.array([[-50.0, -50], [150, -50], [150, 150], [-50, 150]]),
    }[kind]


KINDS = (
    "anywhere",
    "integer",
    "on pixel centres",
    "on fifths",
    "between fifths",
    "one point",
    "vertical",
    "huge",
    "tiny",
    "left of the image",
    "around the image",
)


def fill(polygons, owners, num_masks, size):
    return rasterize_polygons(
        torch.from_numpy(np.concatenate([*polygons, np.empty((0, 2))])),
        torch.tensor([len(polygon) for polygon in polygons], dtype=torch.int64),
        torch.tensor(owners, dtype=torch.int64),
        num_masks,
        size,
    )


def fill_with(library, corners, size):
    # Two points or fewer would be read as a box: repeat the last one.
    corners = np.concatenate([corners, np.repeat(corners[-1:], 2, axis=0)])
    return library.decode(library.frPyObjects([corners.ravel()], *size))[..., 0].astype(bool)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("kind", KINDS)
def test_convention_pixels_are_those_of_the_coco_api(kind, implementation):
    rng = np.random.default_rng(KINDS.index(kind))
    with dispatch.use_implementation(implementation):
        for _ in range(100 if kind != "huge" else 10):
            size = (int(rng.integers(1, 60)), int(rng.integers(1, 60)))
            corners = polygon_of_kind(kind, rng)
            mask = fill([corners], [0], 1, size)[0].numpy()
            assert np.array_equal(mask, fill_with(pycocotools.mask, corners, size))
            assert np.array_equal(mask, fill_with(hotcoco.mask, corners, size))


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_masks_are_unions_of_their_polygons(implementation):
    rng = np.random.default_rng(0)
    polygons = [rng.uniform(0, 40, (5, 2)) for _ in range(30)]
    owners = sorted(rng.integers(0, 25, 30).tolist())
    with dispatch.use_implementation(implementation):
        masks = fill(polygons, owners, 25, (40, 50))
        for index in range(25):
            own = [fill([p], [0], 1, (40, 50))[0] for p, o in zip(polygons, owners) if o == index]
            expected = torch.stack(own).any(0) if own else torch.zeros(40, 50, dtype=torch.bool)
            assert torch.equal(masks[index], expected)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0), (4, 4)])
@pytest.mark.parametrize("num_masks", [0, 2])
def test_nothing_to_fill(size, num_masks, implementation):
    with dispatch.use_implementation(implementation):
        masks = fill([], [], num_masks, size)
    assert masks.shape == (num_masks, *size)
    assert masks.dtype == torch.bool and not masks.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_corners_that_are_no_numbers_do_no_harm(bad):
    corners = np.array([[1.0, 1], [bad, 9], [9, bad], [5, 7]])
    masks = fill([corners, np.array([[2.0, 2], [6, 2], [6, 6], [2, 6]])], [0, 1], 2, (10, 10))
    assert masks[1].sum() == 16


def test_results_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(1)
    polygons = [rng.uniform(-5, 30, (8, 2)) for _ in range(100)]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(fill(polygons, list(range(100)), 100, (28, 28)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_arguments_that_do_not_fit_are_refused():
    corners = torch.zeros(3, 2, dtype=torch.float64)
    three, first = torch.tensor([3]), torch.tensor([0])
    with pytest.raises(ValueError, match="float64"):
        rasterize_polygons(corners.float(), three, first, 1, (4, 4))
    with pytest.raises(ValueError, match="polygons of 4 corners"):
        rasterize_polygons(corners, torch.tensor([4]), first, 1, (4, 4))
    with pytest.raises(ValueError, match="one of 1 masks"):
        rasterize_polygons(corners, three, torch.tensor([1]), 1, (4, 4))


def test_it_is_a_torch_op_with_a_shape_function():
    arguments = (torch.rand(3, 2).double(), torch.tensor([3]), torch.tensor([0]), 1, 4, 4)
    tests = ("test_schema", "test_faketensor")
    result = torch.library.opcheck(
        torch.ops.detectron2.rasterize_polygons.default, arguments, test_utils=tests
    )
    assert set(result.values()) == {"SUCCESS"}
