import fvcore.transforms.transform as fvcore_transforms
import numpy as np
import pytest
from PIL import Image

from detectron2.data import transforms as T
from detectron2.data.transforms._bilinear_cpu import resize_bilinear
from detectron2.data.transforms._bilinear_weights import rows_come_first
from detectron2.data.transforms._polygon_clip import clip_polygons
from detectron2.data.transforms._resample import COMPILED_FROM


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def pillow(image, h, w, method=Image.Resampling.BILINEAR):
    return np.asarray(Image.fromarray(image).resize((w, h), method))


def area(ring):
    x, y = np.asarray(ring).T
    return abs(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


@pytest.mark.parametrize("name", fvcore_transforms.__all__)
def test_convention_simple_transforms_are_fvcores(name):
    assert getattr(T, name) is getattr(fvcore_transforms, name)


# -- resizing


@pytest.mark.parametrize("seed", range(60))
def test_compiled_resizing_gives_pillows_bits(seed):
    rng = np.random.default_rng(seed)
    h, w, new_h, new_w = (int(v) for v in rng.integers(1, 120, 4))
    image = noise(h, w, 3, seed=seed)
    if not rows_come_first(h, w, new_h, new_w):
        new_h = h
    assert (resize_bilinear(image, new_h, new_w) == pillow(image, new_h, new_w)).all()


@pytest.mark.parametrize(
    "h, w, new_h, new_w",
    [
        (480, 640, 800, 1067),
        (300, 200, 99, 66),
        (200, 300, 200, 450),
        (900, 100, 30, 90),
        (400, 200, 160, 100),  # newer versions of Pillow resize the columns first here
    ],
)
@pytest.mark.parametrize("layout", ["rgb", "bgr view", "mirrored view", "grey", "one channel"])
def test_resize_transform_is_pixel_exact_with_pillow(h, w, new_h, new_w, layout):
    image = noise(h, w, 3)
    image = {
        "rgb": image,
        "bgr view": image[:, :, ::-1],
        "mirrored view": image[:, ::-1],
        "grey": image[:, :, 0],
        "one channel": image[:, :, :1],
    }[layout]
    assert h * w > COMPILED_FROM / 3
    resized = T.ResizeTransform(h, w, new_h, new_w).apply_image(image)
    plane = np.ascontiguousarray(image[:, :, 0] if layout == "one channel" else image)
    expected = pillow(plane, new_h, new_w)
    assert resized.shape == (new_h, new_w, *image.shape[2:]) and resized.dtype == np.uint8
    assert (resized.reshape(expected.shape) == expected).all()


def test_reference_implementation_gives_the_same_pixels(monkeypatch):
    image, resize = noise(300, 400, 3), T.ResizeTransform(300, 400, 450, 600)
    compiled = resize.apply_image(image)
    monkeypatch.setenv("DETECTRON2_OPS", "reference")
    assert (resize.apply_image(image) == compiled).all()


def test_channels_do_not_influence_each_other():
    # As an RGBA image Pillow would weigh colours by the fourth channel.
    image = noise(20, 30, 4)
    image[:, :, 3] = 0
    resized = T.ResizeTransform(20, 30, 35, 17).apply_image(image)
    assert (resized[:, :, 0] == pillow(image[:, :, 0], 35, 17)).all()


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, bool])
def test_labels_of_any_dtype_are_resized_by_nearest(dtype):
    labels = (noise(20, 30) % 2).astype(dtype)
    resized = T.ResizeTransform(20, 30, 41, 13).apply_segmentation(labels)
    expected = pillow(labels.astype(np.uint8), 41, 13, Image.Resampling.NEAREST)
    assert resized.dtype == dtype and (resized == expected).all()


def test_integers_other_than_uint8_are_no_images():
    with pytest.raises(NotImplementedError, match="apply_segmentation"):
        T.ResizeTransform(4, 4, 2, 2).apply_image(np.zeros((4, 4), dtype=np.int32))


def test_an_image_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(5, 4\)"):
        T.ResizeTransform(4, 4, 2, 2).apply_image(np.zeros((5, 4), dtype=np.uint8))


def test_resize_and_inverse_return_coordinates():
    resize = T.ResizeTransform(20, 30, 41, 13)
    points = np.random.default_rng(0).uniform(0, 20, (7, 2))
    back = resize.inverse().apply_coords(resize.apply_coords(points.copy()))
    np.testing.assert_allclose(back, points)


# -- rotation


@pytest.mark.parametrize("angle", [30, 90, 180, -57, 200.5])
@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_rotation_agrees_with_opencv(angle, expand, channels):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the oracle of the warp")
    shape = (48, 64) if channels is None else (48, 64, channels)
    # Smooth, because the two round sampling positions differently.
    y, x = np.mgrid[0:48, 0:64]
    image = np.broadcast_to((128 + 60 * np.sin(x / 5) + 60 * np.cos(y / 7))[..., None], (48, 64, 3))
    image = image.astype(np.uint8)[:, :, : channels or 1].reshape(shape)
    rotation = T.RotationTransform(48, 64, angle, expand=expand)
    rotated = rotation.apply_image(image)
    size = (rotation.bound_w, rotation.bound_h)
    expected = cv2.warpAffine(image, rotation.rm_image, size, flags=cv2.INTER_LINEAR)
    assert rotated.dtype == np.uint8
    assert np.abs(rotated.reshape(expected.shape).astype(int) - expected).max() <= 3


def test_rotating_by_90_degrees_moves_pixels():
    image = noise(5, 8, 3)
    rotated = T.RotationTransform(5, 8, 90).apply_image(image)
    assert (rotated == np.rot90(image)).all()


def test_rotation_keeps_coordinates_on_their_pixels():
    image = np.zeros((40, 60), dtype=np.float32)
    image[10, 20] = 1.0
    rotation = T.RotationTransform(40, 60, 90)
    (x, y) = rotation.apply_coords(np.array([[20.5, 10.5]]))[0]
    assert rotation.apply_image(image)[int(y), int(x)] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, bool, np.uint8])
def test_rotated_labels_stay_labels(dtype):
    labels = (noise(20, 30) % 2 * 1).astype(dtype)
    rotated = T.RotationTransform(20, 30, 33).apply_segmentation(labels)
    assert rotated.dtype == dtype and set(np.unique(rotated)) <= set(np.unique(labels))


def test_rotation_and_inverse_return_coordinates():
    rotation = T.RotationTransform(48, 64, 30)
    points = np.random.default_rng(0).uniform(0, 40, (5, 2))
    back = rotation.inverse().apply_coords(rotation.apply_coords(points.copy()))
    assert np.abs(back - points).max() <= 1  # the crop is placed on whole pixels


def test_a_rotation_that_cuts_corners_has_no_inverse():
    with pytest.raises(NotImplementedError, match="expand=True"):
        T.RotationTransform(48, 64, 30, expand=False).inverse()


def test_an_unknown_interpolation_is_an_error():
    with pytest.raises(ValueError, match="interp=4"):
        T.RotationTransform(4, 4, 30, interp=4)


def test_rotated_boxes_under_mirroring_and_unequal_scaling():
    box = np.array([[179.0, 97.0, 62.0, 40.0, -56.0]])
    mirrored = T.HFlipTransform(400).apply_rotated_box(box.copy())
    assert mirrored.tolist() == [[221.0, 97.0, 62.0, 40.0, 56.0]]
    # Twice as wide: the side along the direction (cos 30, -sin 30) becomes hypot(2 cos, sin).
    scaled = T.ResizeTransform(100, 100, 100, 200).apply_rotated_box(
        np.array([[5, 5, 10, 4, 30.0]])
    )
    np.testing.assert_allclose(
        scaled[0], [10, 5, 10 * np.hypot(2 * np.cos(np.pi / 6), 0.5), 4 * np.hypot(1, 0.75**0.5),
                    np.rad2deg(np.arctan2(1, np.cos(np.pi / 6)))],
    )  # fmt: skip


# -- extent, colours


def test_extent_moves_coordinates_with_pixels():
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    image[5, 10] = 255
    cut = T.ExtentTransform((5, 0, 15, 10), (20, 20))
    x, y = cut.apply_coords(np.array([[10.5, 5.5]]))[0]
    assert (
        cut.apply_image(image, interp=Image.Resampling.NEAREST)[int(y), int(x)].tolist()
        == [255] * 3
    )


def test_quirk_extent_ignores_its_fill():
    cut = T.ExtentTransform((-10, 0, 10, 10), (10, 20), fill=7)
    assert cut.apply_image(np.full((10, 10, 3), 9, dtype=np.uint8))[5, 2].tolist() == [0, 0, 0]


def test_quirk_extent_interpolates_labels():
    labels = np.zeros((10, 10), dtype=np.uint8)
    labels[:, 5:] = 100
    mixed = T.ExtentTransform((0, 0, 10, 10), (20, 20)).apply_segmentation(labels)
    assert set(np.unique(mixed)) - {0, 100}
    nearest = T.ExtentTransform((0, 0, 10, 10), (20, 20), interp=Image.Resampling.NEAREST)
    assert set(np.unique(nearest.apply_segmentation(labels))) == {0, 100}


def test_colour_transforms_leave_geometry_alone():
    halve = T.ColorTransform(lambda image: image // 2)
    points = np.ones((2, 2))
    assert halve.apply_coords(points) is points
    assert halve.apply_image(np.full((2, 2, 3), 8)).max() == 4
    assert isinstance(halve.inverse(), T.NoOpTransform)
    upside_down = T.PILColorTransform(lambda image: image.transpose(Image.Transpose.ROTATE_180))
    assert (upside_down.apply_image(noise(3, 4, 3)) == noise(3, 4, 3)[::-1, ::-1]).all()


@pytest.mark.parametrize("kind", [T.ColorTransform, T.PILColorTransform])
def test_colour_transforms_want_a_function(kind):
    with pytest.raises(ValueError, match="op must be a function"):
        kind(3)


# -- polygons and windows


def random_polygon(seed):
    rng = np.random.default_rng(seed)
    corners = int(rng.integers(3, 14))
    if seed % 3 == 0:  # crosses itself
        return np.round(rng.uniform(0, 40, (min(corners, 6), 2)), 2)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(3, 20, corners)
    points = np.stack([20 + radii * np.cos(angles), 20 + radii * np.sin(angles)], axis=1)
    return np.round(points, 2)[:: 1 if seed % 2 else -1]


@pytest.mark.parametrize("seed", range(60))
def test_cut_polygons_cover_what_shapely_says(seed):
    geometry = pytest.importorskip("shapely.geometry", reason="shapely is the oracle of clipping")
    polygon = random_polygon(seed)
    rng = np.random.default_rng(1000 + seed)
    window = (*rng.integers(0, 15, 2).tolist(), *rng.integers(25, 45, 2).tolist())
    whole = geometry.Polygon(polygon).buffer(0.0)
    expected = whole.intersection(geometry.box(*window)).area
    pieces = clip_polygons([polygon], window)
    assert sum(area(piece) for piece in pieces) == pytest.approx(expected, abs=1e-9)
    for piece in pieces:
        assert geometry.Polygon(piece).is_valid
        assert (piece >= window[:2]).all() and (piece <= window[2:]).all()


def test_a_polygon_inside_of_the_window_keeps_its_points():
    square = np.array([[1.0, 1], [4, 1], [4, 5], [1, 5]])
    (piece,) = clip_polygons([square], (0, 0, 10, 10))
    assert sorted(map(tuple, piece)) == sorted(map(tuple, square))


def test_convention_first_vertex_and_direction_are_geos():
    square = np.array([[10.0, 8], [30, 8], [30, 30], [12, 28]])
    (piece,) = clip_polygons([square], (8, 6, 58, 44))
    assert piece.tolist() == [[12, 28], [30, 30], [30, 8], [10, 8]]


def test_a_polygon_may_fall_into_pieces_or_vanish():
    comb = np.array([[0.0, 0], [10, 0], [10, 10], [7, 10], [7, 2], [3, 2], [3, 10], [0, 10]])
    pieces = clip_polygons([comb], (0, 5, 10, 10))
    assert sorted(area(piece) for piece in pieces) == [15.0, 15.0]
    assert clip_polygons([comb], (3.5, 4, 6.5, 9)) == []
    assert clip_polygons([comb], (20, 20, 30, 30)) == []


def test_polygons_without_area_vanish():
    line = np.array([[1.0, 1], [5, 5], [3, 3]])
    repeated = np.array([[2.0, 2], [2, 2], [2, 2]])
    assert clip_polygons([line, repeated, line[:2]], (0, 0, 9, 9)) == []


def test_a_crop_moves_the_cut_polygon_and_leaves_the_input():
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    (piece,) = T.CropTransform(4, 2, 3, 5).apply_polygons([square])
    assert sorted(map(tuple, piece)) == [(0, 0), (0, 5), (3, 0), (3, 5)]
    assert square.max() == 10
