import numpy as np
import pytest

from detectron2.data import transforms as T
from detectron2.data.transforms.augmentation import _get_aug_input_args, _transform_to_aug


def image(h=48, w=64):
    return np.random.default_rng(0).integers(0, 256, (h, w, 3)).astype(np.uint8)


def kinds(transform):
    return [type(t).__name__ for t in getattr(transform, "transforms", [transform])]


def test_an_augmentation_sees_what_its_parameters_name():
    class Shift(T.Augmentation):
        def get_transform(self, image, offset):
            return T.CropTransform(offset, 0, image.shape[1] - offset, image.shape[0])

    aug_input = T.AugInput(image())
    with pytest.raises(AttributeError, match="'offset'"):
        Shift()(aug_input)
    aug_input.offset = 5
    assert Shift()(aug_input).x0 == 5
    assert aug_input.image.shape == (48, 59, 3)


def test_convention_a_single_parameter_is_the_image_whatever_its_name():
    class Named(T.Augmentation):
        def get_transform(self, picture):
            return T.HFlipTransform(picture.shape[1])

    assert Named()(T.AugInput(image())).width == 64


def test_star_arguments_need_input_args():
    class Vague(T.Augmentation):
        def get_transform(self, *args):
            return T.NoOpTransform()

    with pytest.raises(TypeError, match="input_args"):
        Vague()(T.AugInput(image()))
    vague = Vague()
    vague.input_args = ("image",)
    assert isinstance(vague(T.AugInput(image())), T.NoOpTransform)
    assert len(_get_aug_input_args(vague, T.AugInput(image()))) == 1


def test_returning_no_transform_is_an_error():
    class Wrong(T.Augmentation):
        def get_transform(self, image):
            return image

    with pytest.raises(TypeError, match="must return a Transform"):
        Wrong()(T.AugInput(image()))
    with pytest.raises(NotImplementedError, match="must define"):
        T.Augmentation().get_transform(image())


def test_repr_leaves_out_defaults():
    class My(T.Augmentation):
        def __init__(self, a, b=2, c="x"):
            self._init(locals())

    assert repr(My(1)) == "My(a=1)" and repr(My([1], c="y")) == "My(a=[1], c='y')"
    assert repr(T.RandomFlip()) == "RandomFlip()"
    assert repr(T.AugmentationList([T.HFlipTransform(3), T.RandomFlip()])) == (
        "AugmentationList[HFlipTransform(width=3), RandomFlip()]"
    )


def test_quirk_repr_shows_a_default_that_was_passed():
    assert repr(T.RandomFlip(prob=float("0.5"))) == "RandomFlip(prob=0.5)"


def test_an_input_is_transformed_as_a_whole():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    aug_input = T.AugInput(image(3, 4), boxes=np.array([[0.0, 0, 1, 3]]), sem_seg=labels)
    transforms = aug_input.apply_augmentations([T.RandomFlip(1.0), T.HFlipTransform(4)])
    assert kinds(transforms) == ["HFlipTransform", "HFlipTransform"]
    assert (aug_input.sem_seg == labels).all() and aug_input.boxes.tolist() == [[0, 0, 1, 3]]


@pytest.mark.parametrize(
    "wrong, error",
    [([1], TypeError), (np.zeros(3), ValueError), (np.zeros((3, 3), dtype=np.int64), ValueError)],
)
def test_what_is_no_image_is_refused(wrong, error):
    with pytest.raises(error, match="image must be"):
        T.AugInput(wrong)


def test_convention_old_function_augments_images_and_inputs():
    augmented, transforms = T.apply_augmentations([T.RandomFlip(1.0)], image())
    assert (augmented == image()[:, ::-1]).all() and kinds(transforms) == ["HFlipTransform"]
    aug_input = T.AugInput(image())
    same, _ = T.apply_transform_gens([T.RandomFlip(1.0)], aug_input)
    assert same is aug_input
    assert T.StandardAugInput is T.AugInput and T.TransformGen is T.Augmentation


def test_only_transforms_and_augmentations_are_augmentations():
    flip = T.RandomFlip()
    assert _transform_to_aug(flip) is flip
    with pytest.raises(TypeError, match="Expected a Transform"):
        _transform_to_aug(3)


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: T.RandomFlip(horizontal=True, vertical=True), ValueError),
        (lambda: T.RandomFlip(horizontal=False, vertical=False), ValueError),
        (lambda: T.ResizeShortestEdge(10, sample_style="x"), ValueError),
        (lambda: T.ResizeShortestEdge([1, 2, 3], sample_style="range"), ValueError),
        (lambda: T.RandomRotation([1, 2, 3]), ValueError),
        (lambda: T.RandomRotation(1, sample_style="x"), ValueError),
        (lambda: T.RandomCrop("x", (1, 1)), AssertionError),
        (lambda: T.RandomApply(T.RandomFlip(), 1.5), AssertionError),
        (lambda: T.RandomCrop("absolute_range", (9, 3)).get_crop_size((20, 20)), ValueError),
        (lambda: T.RandomSaturation(0, 1).get_transform(np.zeros((3, 3))), ValueError),
        (lambda: T.RandomLighting(1).get_transform(np.zeros((3, 3))), ValueError),
    ],
)
def test_wrong_arguments_are_named(make, error):
    with pytest.raises(error, match=r"\w+ \w+"):
        make()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "augmentation",
    [
        T.RandomCrop("relative_range", (0.3, 0.6)),
        T.RandomCrop("relative", (0.5, 0.9)),
        T.RandomCrop("absolute", (200, 20)),
        T.RandomCrop("absolute_range", (10, 90)),
        T.RandomCrop_CategoryAreaConstraint("relative", (0.5, 0.5), 0.7, 255),
        T.FixedSizeCrop((40, 100), pad=False),
        T.MinIoURandomCrop(),
    ],
    ids=repr,
)
def test_crops_lie_inside_of_the_image(augmentation, seed):
    np.random.seed(seed)
    boxes = np.array([[5.0, 5, 30, 30], [20, 10, 60, 40]])
    labels = (np.mgrid[0:48, 0:64][0] // 7).astype(np.uint8)
    aug_input = T.AugInput(image(), boxes=boxes, sem_seg=labels)
    transform = augmentation(aug_input)
    for crop in getattr(transform, "transforms", [transform]):
        if isinstance(crop, T.CropTransform):
            assert crop.x0 >= 0 and crop.y0 >= 0 and crop.w > 0 and crop.h > 0
            assert crop.x0 + crop.w <= 64 and crop.y0 + crop.h <= 48


def test_fixed_size_crop_pads_to_the_size():
    labels = np.zeros((48, 64), dtype=np.uint8)
    aug_input = T.AugInput(image(), sem_seg=labels)
    T.FixedSizeCrop((60, 30), pad_value=7)(aug_input)
    assert aug_input.image.shape == (60, 30, 3)
    assert (aug_input.image[48:] == 7).all() and (aug_input.sem_seg[48:] == 255).all()


@pytest.mark.parametrize(
    "size, short, longest, expected",
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((333, 1001), 800, 1333, (443, 1333)),
        ((100, 100), 99, 50, (50, 50)),
    ],
)
def test_shortest_edge_rule(size, short, longest, expected):
    assert T.ResizeShortestEdge.get_output_shape(*size, short, longest) == expected


def test_shortest_edge_of_zero_leaves_the_image():
    assert kinds(T.ResizeShortestEdge([0], sample_style="choice")(T.AugInput(image()))) == [
        "NoOpTransform"
    ]


def test_resize_scale_fits_the_target_times_the_scale():
    np.random.seed(0)
    transform = T.ResizeScale(1.0, 1.0, 100, 100)(T.AugInput(image(50, 80)))
    assert (transform.new_h, transform.new_w) == (62, 100)


def test_category_constraint_refuses_a_window_of_one_category():
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[:, 20:] = 1
    augmentation = T.RandomCrop_CategoryAreaConstraint("relative", (0.5, 0.5), 0.8)
    for seed in range(10):
        np.random.seed(seed)
        crop = augmentation.get_transform(image(40, 40), labels)
        share = np.bincount(labels[:, crop.x0 : crop.x0 + crop.w].ravel()).max() / (40 * crop.w)
        assert share < 0.8


def test_min_iou_crop_without_boxes_does_nothing():
    assert isinstance(T.MinIoURandomCrop().get_transform(image(), None), T.NoOpTransform)
    empty = T.MinIoURandomCrop().get_transform(image(), np.zeros((0, 4)))
    assert isinstance(empty, (T.NoOpTransform, T.CropTransform))


def test_random_apply_follows_its_probability():
    never, always = T.RandomApply(T.HFlipTransform(64), 0), T.RandomApply(T.RandomFlip(1.0), 1)
    assert kinds(never(T.AugInput(image()))) == ["NoOpTransform"]
    assert kinds(always(T.AugInput(image()))) == ["HFlipTransform"]
    assert kinds(always.get_transform(image())) == ["HFlipTransform"]


def test_colour_augmentations_at_weight_one_change_nothing():
    for augmentation in (
        T.RandomContrast(1, 1),
        T.RandomBrightness(1, 1),
        T.RandomSaturation(1, 1),
        T.RandomLighting(0),
    ):
        assert (augmentation(T.AugInput(image())).apply_image(image()) == image()).all()


def test_rotation_choices_and_centres():
    np.random.seed(0)
    augmentation = T.RandomRotation(
        [90, 180], expand=False, center=[[0.5, 0.5], [0, 0]], sample_style="choice"
    )
    seen = {
        (t.angle, tuple(t.image_center))
        for t in (augmentation.get_transform(image()) for _ in range(40))
    }
    assert seen == {(a, c) for a in (90, 180) for c in ((32.0, 24.0), (0.0, 0.0))}


def test_random_extent_has_the_size_of_its_rectangle():
    np.random.seed(1)
    aug_input = T.AugInput(image())
    T.RandomExtent((0.5, 0.5), (0.0, 0.0))(aug_input)
    assert aug_input.image.shape == (24, 32, 3)
