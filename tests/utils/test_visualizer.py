import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import MetadataCatalog
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)
from detectron2.utils import visualizer as module
from detectron2.utils.visualizer import (
    ColorMode,
    GenericMask,
    VisImage,
    Visualizer,
    _create_text_labels,
    _PanopticPrediction,
)

HEIGHT, WIDTH = 120, 160
GRAY = 90


class Metadata(SimpleNamespace):
    def get(self, key, default=None):
        return getattr(self, key, default)


METADATA = Metadata(
    thing_classes=["cat", "dog"],
    thing_colors=[(255, 0, 0), (0, 0, 255)],
    stuff_classes=["things", "sky", "grass"],
    stuff_colors=[(10, 10, 10), (0, 160, 255), (0, 255, 0)],
    keypoint_names=["nose", "left_shoulder", "right_shoulder", "left_hip", "right_hip"],
    keypoint_connection_rules=[("nose", "left_shoulder", (0, 255, 0))],
    thing_dataset_id_to_contiguous_id={1: 0, 2: 1},
    label_divisor=1000,
)


def gray_picture():
    return np.full((HEIGHT, WIDTH, 3), GRAY, dtype=np.uint8)


@pytest.fixture
def visualizer():
    np.random.seed(0)
    return Visualizer(gray_picture(), METADATA)


def changed(output):
    """(H, W) bool: which pixels differ from the gray picture."""
    return (output.get_image() != GRAY).any(axis=2)


def make_instances(count=2, masks=True):
    instances = Instances((HEIGHT, WIDTH))
    boxes = torch.tensor([[10.0, 10, 60, 60], [80, 50, 150, 110], [5, 70, 40, 110]])[:count]
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.tensor([0.95, 0.6, 0.5])[:count]
    instances.pred_classes = torch.tensor([0, 1, 1])[:count]
    if masks:
        instances.pred_masks = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, boxes.long().tolist()):
            mask[y0 + 10 : y1 - 10, x0 + 10 : x1 - 10] = True
    return instances


class TestVisImage:
    @pytest.mark.parametrize("scale", [0.5, 1.0, 1.2, 2.0, 3.0])
    def test_the_output_is_scaled(self, scale):
        output = VisImage(gray_picture(), scale)
        assert output.get_image().shape == (int(HEIGHT * scale), int(WIDTH * scale), 3)
        assert output.get_image().dtype == np.uint8
        assert (output.width, output.height) == (WIDTH, HEIGHT)

    def test_a_size_that_a_product_falls_short_of_is_kept(self):
        assert VisImage(np.zeros((928, 928, 3), np.uint8)).get_image().shape == (928, 928, 3)
        assert 100 * 0.29 < 29
        assert VisImage(np.zeros((100, 100, 3), np.uint8), 0.29).get_image().shape == (29, 29, 3)

    def test_without_drawing_the_picture_is_unchanged(self):
        picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        np.testing.assert_array_equal(VisImage(picture).get_image(), picture)
        enlarged = VisImage(picture, 2.0).get_image()
        np.testing.assert_array_equal(enlarged, picture.repeat(2, 0).repeat(2, 1))

    @pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "deeper/x.PNG"])
    def test_the_extension_names_the_format(self, tmp_path, name):
        path = tmp_path / name
        VisImage(gray_picture()).save(str(path))
        with Image.open(path) as saved:
            assert saved.size == (WIDTH, HEIGHT)
            assert abs(int(np.asarray(saved)[5, 5, 0]) - GRAY) <= 1
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize("name", ["x.doc", "x"])
    def test_an_unknown_format_is_refused_and_leaves_nothing(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"use \.png"):
            VisImage(gray_picture()).save(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_resetting_keeps_labels_over_the_new_picture(self, visualizer):
        visualizer.draw_circle((50, 50), "r")
        visualizer.draw_text("label", (80, 50))
        visualizer.output.reset_image(np.zeros((HEIGHT, WIDTH, 3)))
        picture = visualizer.output.get_image()
        assert picture[50, 50].tolist() == [0, 0, 0]
        assert picture.max() > 100

    def test_programs_that_draw_with_matplotlib_keep_working(self, visualizer):
        pytest.importorskip("matplotlib", reason="the attributes fig, ax and canvas need it")
        from matplotlib.patches import Rectangle

        visualizer.output.ax.add_patch(Rectangle((20, 30), 40, 10, color="r"))
        picture = visualizer.output.get_image()
        assert picture.shape == (HEIGHT, WIDTH, 3)
        assert picture[35, 40].tolist() == [255, 0, 0]
        assert picture[60, 40].tolist() == [GRAY] * 3
        assert visualizer.output.fig.canvas is visualizer.output.canvas

    def test_without_matplotlib_the_error_says_what_is_missing(self, visualizer, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match="pip install matplotlib"):
            _ = visualizer.output.ax


class TestShapes:
    def test_every_method_returns_what_it_drew_on(self, visualizer):
        v = visualizer
        outputs = [
            v.draw_text("x", (10, 10)),
            v.draw_box((10, 10, 50, 50)),
            v.draw_rotated_box_with_label((60, 60, 30, 20, 40), label="x"),
            v.draw_circle((30, 30), "g"),
            v.draw_line([1, 50], [1, 70], "b"),
            v.draw_binary_mask(np.eye(HEIGHT, WIDTH), "r"),
            v.draw_soft_mask(np.zeros((HEIGHT, WIDTH))),
            v.draw_polygon(np.array([[1.0, 1], [9, 1], [9, 9]]), "c"),
            v.overlay_instances(),
            v.draw_dataset_dict({}),
        ]
        assert all(output is v.get_output() for output in outputs)

    def test_a_box_is_drawn_on_its_edges_only(self, visualizer):
        touched = changed(visualizer.draw_box((20, 30, 100, 90), edge_color="r"))
        assert touched[30, 20:100].all() and touched[30:90, 100].all()
        assert not touched[40:80, 30:90].any()
        assert not touched[:25].any()

    def test_a_dashed_box_has_gaps(self, visualizer):
        touched = changed(visualizer.draw_box((20, 30, 140, 90), line_style="--"))
        assert 0.4 < touched[30, 20:140].mean() < 0.9

    def test_a_circle_has_the_color_and_radius(self, visualizer):
        picture = visualizer.draw_circle((80, 60), (0, 1, 0), radius=10).get_image()
        assert picture[60, 80].tolist() == [0, 255, 0]
        assert picture[60, 68].tolist() == [GRAY] * 3

    def test_a_line_passes_through_its_points(self, visualizer):
        picture = visualizer.draw_line([10, 60, 60], [20, 20, 90], "b", linewidth=3).get_image()
        for x, y in ((30, 20), (60, 50)):
            assert picture[y, x].tolist() == [0, 0, 255]

    def test_a_polygon_is_filled_and_outlined(self, visualizer):
        square = np.array([[20.0, 20], [80, 20], [80, 80], [20, 80]])
        picture = visualizer.draw_polygon(square, "r", edge_color="g", alpha=0.5).get_image()
        assert picture[50, 50].tolist() == [pytest.approx((GRAY + 255) / 2, abs=1), 45, 45]
        assert picture[50, 20, 1] > picture[50, 50, 1]  # the outline is green

    def test_the_outline_of_a_nearly_opaque_polygon_is_darker(self, visualizer):
        square = np.array([[20.0, 20], [80, 20], [80, 80], [20, 80]])
        picture = visualizer.draw_polygon(square, (1, 0.5, 0.5), alpha=0.9).get_image()
        assert picture[50, 20].sum() < picture[50, 50].sum()

    def test_a_rotated_box_is_dashed_on_its_top_side(self, visualizer):
        touched = changed(visualizer.draw_rotated_box_with_label((80, 60, 120, 60, 0)))
        top, bottom = touched[30, 25:135].mean(), touched[90, 25:135].mean()
        assert bottom == 1.0
        assert 0.4 < top < 0.9

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_shapes_that_are_not_finite_are_not_drawn(self, visualizer, bad):
        v = visualizer
        v.draw_box((bad, 0, 10, 10))
        v.draw_rotated_box_with_label((5, bad, 10, 10, 0), label="x")
        v.draw_circle((bad, 4), "r")
        v.draw_line([0, bad], [0, 1], "r")
        v.draw_polygon(np.array([[0, 0], [bad, 1], [1, 1]]), "r")
        v.draw_text("x", (bad, 0))
        assert not changed(v.output).any()

    def test_shapes_far_away_are_not_drawn(self, visualizer):
        for center in (-1e6, 1e6):
            visualizer.draw_rotated_box_with_label((center, center, 30, 20, 10))
            visualizer.draw_box((center, center, center + 5, center + 5))
        assert not changed(visualizer.output).any()

    def test_text_is_readable_and_above_everything(self, visualizer):
        visualizer.draw_text("hello", (80, 50), color="b", font_size=14)
        visualizer.draw_box((60, 40, 100, 80), alpha=1.0)
        visualizer.draw_binary_mask(np.ones((HEIGHT, WIDTH), bool), color="w", alpha=1.0)
        picture = visualizer.output.get_image().astype(int)
        assert picture[50:65].min() < 60  # the plate
        letters = picture[50:65, 60:100].reshape(-1, 3)
        assert (letters[:, 2] - letters[:, 0]).max() > 60  # bluish letters

    def test_a_wrong_alignment_is_named(self, visualizer):
        with pytest.raises(ValueError, match="'middle'"):
            visualizer.draw_text("x", (1, 1), horizontal_alignment="middle")


class TestMasks:
    def square(self):
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[20:80, 30:100] = True
        return mask

    def test_a_mask_is_blended_and_outlined(self, visualizer):
        picture = visualizer.draw_binary_mask(self.square(), "r", alpha=0.5).get_image()
        assert picture[50, 60].tolist() == [pytest.approx(172, abs=1), 45, 45]
        assert picture[20, 60].tolist() == [255, 0, 0]
        assert picture[10, 60].tolist() == [GRAY] * 3

    def test_a_mask_with_a_hole_is_a_plain_overlay(self, visualizer):
        mask = self.square()
        mask[40:50, 50:60] = False
        picture = visualizer.draw_binary_mask(mask, "r", alpha=0.5).get_image()
        assert picture[45, 55].tolist() == [GRAY] * 3
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 2

    @pytest.mark.parametrize("hole", [True, False])
    def test_at_scale_3_a_mask_reaches_the_first_and_last_row(self, hole):
        mask = np.zeros((30, 40), dtype=bool)
        mask[:, 10:20] = True
        if hole:
            mask[10:15, 12:16] = False
        visualizer = Visualizer(np.full((30, 40, 3), 255, np.uint8), METADATA, scale=3)
        picture = visualizer.draw_binary_mask(mask, "b").get_image()
        for row in (picture[0], picture[-1]):
            colors = np.unique(row, axis=0)
            assert [255, 255, 255] in colors.tolist()
            assert len(colors) == 2 if hole else len(colors) >= 2

    def test_small_regions_are_left_out(self, visualizer):
        mask = self.square()
        mask[100:103, 10:13] = True
        picture = visualizer.draw_binary_mask(mask, "r", area_threshold=10).get_image()
        assert picture[101, 11].tolist() == [GRAY] * 3
        picture = visualizer.draw_binary_mask(mask, "r", area_threshold=None).get_image()
        assert picture[101, 11].tolist() != [GRAY] * 3

    def test_text_is_written_only_where_something_is_drawn(self, visualizer):
        visualizer.draw_binary_mask(self.square(), "r", text="square")
        assert [label.text for label in visualizer.output.labels] == ["square"]
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[5, 5] = True
        visualizer.draw_binary_mask(mask, "r", text="too small")
        visualizer.draw_binary_mask(np.zeros((HEIGHT, WIDTH)), "r", text="empty")
        assert len(visualizer.output.labels) == 1

    def test_a_soft_mask_has_an_opacity_per_pixel(self, visualizer):
        soft = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
        soft[:, 50:100], soft[:, 100:] = 0.5, 1.0
        picture = visualizer.draw_soft_mask(soft, "w", alpha=0.8, text="x").get_image()
        assert picture[5, 10, 0] == GRAY
        assert picture[5, 70, 0] == pytest.approx(GRAY + 0.4 * (255 - GRAY), abs=1)
        assert picture[5, 120, 0] == pytest.approx(GRAY + 0.8 * (255 - GRAY), abs=1)
        assert [label.text for label in visualizer.output.labels] == ["x"]

    def test_an_empty_soft_mask_with_text_is_fine(self, visualizer):
        output = visualizer.draw_soft_mask(np.zeros((HEIGHT, WIDTH)), text="nothing")
        assert not changed(output).any()

    def test_colors_are_random_unless_given(self, visualizer):
        np.random.seed(1)
        first = visualizer.draw_binary_mask(self.square()).get_image()
        np.random.seed(1)
        again = Visualizer(gray_picture(), METADATA).draw_binary_mask(self.square()).get_image()
        np.testing.assert_array_equal(first, again)


class TestOverlay:
    COLORS = [(1, 0, 0), (0, 1, 0)]

    @pytest.mark.parametrize("form", ["tensor", "array", "bitmasks", "rle", "polygons", "generic"])
    def test_masks_may_come_in_any_form(self, visualizer, form):
        from hotcoco import mask as rle_codec

        masks = make_instances().pred_masks
        outlines = [
            [np.array([20.0, 20, 50, 20, 50, 50, 20, 50])],
            [np.array([90.0, 60, 140, 60, 140, 100, 90, 100])],
        ]
        given = {
            "tensor": masks,
            "array": masks.numpy(),
            "bitmasks": BitMasks(masks),
            "rle": [rle_codec.encode(mask.numpy()) for mask in masks],
            "polygons": PolygonMasks(outlines),
            "generic": [GenericMask(mask.numpy(), HEIGHT, WIDTH) for mask in masks],
        }[form]
        picture = visualizer.overlay_instances(masks=given, assigned_colors=self.COLORS).get_image()
        red, green = picture[35, 35].astype(int), picture[80, 115].astype(int)
        assert red[0] > red[1] and green[1] > green[0]

    @pytest.mark.parametrize("form", ["boxes", "tensor", "array", "list"])
    def test_boxes_may_come_in_any_form(self, visualizer, form):
        boxes = make_instances().pred_boxes
        given = {
            "boxes": boxes,
            "tensor": boxes.tensor,
            "array": boxes.tensor.numpy(),
            "list": boxes.tensor.tolist(),
        }[form]
        touched = changed(visualizer.overlay_instances(boxes=given, assigned_colors=self.COLORS))
        assert touched[10, 10:60].all() and touched[110, 80:150].all()

    def test_five_numbers_make_a_rotated_box(self, visualizer):
        rng = np.random.default_rng(0)
        boxes = rng.uniform([-20, -20, 5, 5, -180], [180, 140, 90, 60, 180], (50, 5))
        labels = [str(i) for i in range(50)]
        for given in (RotatedBoxes(torch.tensor(boxes)), boxes):
            output = visualizer.overlay_instances(boxes=given, labels=labels)
            assert output.get_image().shape == (HEIGHT, WIDTH, 3)
        assert changed(output).any()

    def test_larger_instances_are_drawn_first(self, visualizer):
        masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
        masks[0, 40:60, 40:60] = True
        masks[1, 20:100, 20:100] = True
        picture = visualizer.overlay_instances(
            masks=masks, assigned_colors=self.COLORS, alpha=1.0
        ).get_image()
        assert picture[50, 50].tolist() == [255, 0, 0]
        assert picture[30, 30].tolist() == [0, 255, 0]

    def test_holes_of_masks_stay_open(self, visualizer):
        mask = np.zeros((1, HEIGHT, WIDTH), dtype=bool)
        mask[0, 20:100, 20:100] = True
        mask[0, 50:70, 50:70] = False
        picture = visualizer.overlay_instances(masks=mask, assigned_colors=["r"]).get_image()
        assert picture[60, 60].tolist() == [GRAY] * 3

    def test_nothing_is_drawn_for_no_instances(self, visualizer):
        empty = make_instances()[:0]
        output = visualizer.overlay_instances(
            boxes=empty.pred_boxes, masks=empty.pred_masks, labels=[]
        )
        assert not changed(output).any()

    def test_numbers_of_things_must_agree(self, visualizer):
        boxes = make_instances().pred_boxes
        with pytest.raises(AssertionError, match="'boxes': 2, 'labels': 3"):
            visualizer.overlay_instances(boxes=boxes, labels=["a", "b", "c"])
        with pytest.raises(AssertionError, match="'assigned_colors': 1"):
            visualizer.overlay_instances(boxes=boxes, assigned_colors=["r"])

    def test_boxes_that_are_not_finite_are_passed_over(self, visualizer):
        boxes = np.array([[np.nan, 1, 2, 3], [10, 10, 60, 60]])
        visualizer.overlay_instances(boxes=boxes, labels=["bad", "good"])
        assert [label.text for label in visualizer.output.labels] == ["good"]

    def test_labels_start_at_the_corner_of_their_box(self, visualizer):
        visualizer.overlay_instances(boxes=[[10, 10, 110, 100]], labels=["cat"])
        (label,) = visualizer.output.labels
        assert (label.x, label.y, label.align) == (10, 10, "left")

    def test_labels_of_small_objects_lie_below_them(self, visualizer):
        visualizer.overlay_instances(boxes=[[50, 50, 60, 60]], labels=["cat"])
        (label,) = visualizer.output.labels
        assert (label.x, label.y) == (50, 60)

    def test_without_boxes_labels_lie_in_the_middle_of_masks(self, visualizer):
        visualizer.overlay_instances(masks=make_instances().pred_masks, labels=["a", "b"])
        assert [(label.x, label.y) for label in visualizer.output.labels] == [
            (114.5, 79.5),
            (34.5, 34.5),
        ]

    def test_keypoints_alone_are_not_labelled(self, visualizer):
        visualizer.overlay_instances(keypoints=np.ones((1, 5, 3)) * 40, labels=["x"])
        assert visualizer.output.labels == []

    def test_labels_at_the_same_place_are_moved_apart(self, visualizer):
        box = [20, 20, 140, 110]
        visualizer.overlay_instances(boxes=[box, box, box], labels=["first", "second", "third"])
        plates = visualizer.output.plates()
        for i, plate in enumerate(plates):
            for other in plates[i + 1 :]:
                width = min(plate.right, other.right) - max(plate.left, other.left)
                height = min(plate.bottom, other.bottom) - max(plate.top, other.top)
                assert width <= 0 or height <= 0

    def test_labels_do_not_leave_the_picture(self, visualizer):
        visualizer.overlay_instances(boxes=[[130, 5, 158, 100]], labels=["a rather long name"])
        (plate,) = visualizer.output.plates()
        assert plate.left >= 0
        assert plate.right <= WIDTH


class TestKeypoints:
    def test_visible_points_are_drawn_and_connected(self, visualizer):
        points = np.array(
            [[80, 20, 1], [60, 50, 1], [100, 50, 1], [65, 100, 1], [95, 100, 0.01]], float
        )
        picture = visualizer.draw_and_connect_keypoints(points).get_image().astype(int)
        assert picture[20, 80].tolist() == [255, 0, 0]
        assert picture[35, 70, 1] > 200  # the rule from nose to left shoulder, green
        assert picture[40, 80, 0] > 200  # nose to the middle of the shoulders, red
        assert picture[100, 95].tolist() == [GRAY] * 3  # below the threshold
        assert picture[80, 80].tolist() == [GRAY] * 3  # one hip alone has no middle

    def test_the_spine_needs_both_hips(self, visualizer):
        points = Keypoints(
            torch.tensor([[[80.0, 20, 1], [60, 50, 1], [100, 50, 1], [65, 100, 1], [95, 100, 1]]])
        )
        picture = visualizer.overlay_instances(keypoints=points).get_image()
        assert picture[80, 80].tolist() == [255, 0, 0]

    def test_without_names_points_are_drawn_alone(self):
        visualizer = Visualizer(gray_picture(), Metadata())
        touched = changed(visualizer.draw_and_connect_keypoints([[30, 30, 1], [90, 90, 1]]))
        assert touched[30, 30] and touched[90, 90] and not touched[60, 60]

    def test_the_threshold_can_be_changed(self, visualizer):
        visualizer.keypoint_threshold = 0.5
        assert not changed(visualizer.draw_and_connect_keypoints([[30, 30, 0.4]])).any()


class TestPredictions:
    def test_labels_have_class_and_score(self, visualizer):
        visualizer.draw_instance_predictions(make_instances())
        texts = [label.text for label in visualizer.output.labels]
        assert sorted(texts) == ["cat 95%", "dog 60%"]

    @pytest.mark.parametrize(
        "keep",
        [["pred_boxes"], ["pred_masks"], ["scores", "pred_boxes"], ["pred_classes", "pred_masks"]],
    )
    def test_every_field_is_optional(self, visualizer, keep):
        full = make_instances()
        partial = Instances((HEIGHT, WIDTH), **{name: full.get(name) for name in keep})
        assert changed(visualizer.draw_instance_predictions(partial)).any()

    def test_boxes_may_be_a_plain_tensor(self, visualizer):
        instances = make_instances(masks=False)
        instances.pred_boxes = instances.pred_boxes.tensor
        assert changed(visualizer.draw_instance_predictions(instances))[10, 10:60].all()

    def test_empty_masks_are_fine(self, visualizer):
        instances = make_instances()
        instances.pred_masks[:] = False
        visualizer.draw_instance_predictions(instances)

    def test_class_colours_are_jittered_between_instances(self):
        def color(jittering, seed):
            np.random.seed(seed)
            v = Visualizer(gray_picture(), METADATA, instance_mode=ColorMode.SEGMENTATION)
            v.draw_instance_predictions(make_instances(1), jittering=jittering)
            v.output.labels.clear()
            return v.output.get_image()[35, 35].tolist()

        blended = pytest.approx([0.8 * 255 + 0.2 * GRAY, 0.2 * GRAY, 0.2 * GRAY], abs=1)
        assert color(False, 0) == blended
        assert color(True, 0) != blended
        assert color(True, 0) != color(True, 1)

    def test_black_and_white_keeps_colour_inside_of_masks(self):
        picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        visualizer = Visualizer(picture, METADATA, instance_mode=ColorMode.IMAGE_BW)
        drawn = visualizer.draw_instance_predictions(make_instances(1)).get_image().astype(int)
        outside = drawn[90:, 90:]
        assert (outside == outside[..., :1]).all()
        inside = drawn[25:45, 25:45]
        assert not (inside == inside[..., :1]).all()

    @pytest.mark.parametrize("masks", [True, False])
    def test_black_and_white_without_instances_is_all_gray(self, masks):
        picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        visualizer = Visualizer(picture, METADATA, instance_mode=ColorMode.IMAGE_BW)
        drawn = visualizer.draw_instance_predictions(make_instances(masks=masks)[:0]).get_image()
        assert (drawn == drawn[..., :1]).all()


class TestSegmentation:
    def test_classes_get_their_colour_and_name(self, visualizer):
        labels = np.full((HEIGHT, WIDTH), 255)
        labels[:50], labels[60:] = 1, 2
        picture = visualizer.draw_sem_seg(torch.from_numpy(labels), alpha=1.0).get_image()
        assert picture[25, 5].tolist() == [0, 160, 255]
        assert picture[100, 5].tolist() == [0, 255, 0]
        assert picture[55, 5].tolist() == [GRAY] * 3
        assert [label.text for label in visualizer.output.labels] == ["grass", "sky"]
        visualizer.output.labels.clear()
        visualizer.draw_sem_seg(labels, draw_text=False)
        assert visualizer.output.labels == []

    def panoptic(self):
        ids = torch.zeros(HEIGHT, WIDTH, dtype=torch.int32)
        ids[:60], ids[70:100, 20:60], ids[70:110, 80:150] = 1, 2, 3
        infos = [
            {"id": 1, "isthing": False, "category_id": 1},
            {"id": 2, "isthing": True, "category_id": 0, "score": 0.8},
            {"id": 3, "isthing": True, "category_id": 1, "score": 0.7},
        ]
        return ids, infos

    def test_stuff_lies_under_things(self, visualizer):
        ids, infos = self.panoptic()
        picture = visualizer.draw_panoptic_seg(ids, infos).get_image()
        assert [label.text for label in visualizer.output.labels] == ["sky", "dog 70%", "cat 80%"]
        assert picture[30, 5].tolist() != [GRAY] * 3
        assert picture[115, 5].tolist() == [GRAY] * 3  # void
        assert "area" not in infos[0]

    def test_the_old_name_is_the_same_method(self):
        assert Visualizer.draw_panoptic_seg_predictions is Visualizer.draw_panoptic_seg

    def test_scores_are_left_out_unless_every_thing_has_one(self, visualizer):
        ids, infos = self.panoptic()
        del infos[1]["score"]
        visualizer.draw_panoptic_seg(ids, infos)
        assert [label.text for label in visualizer.output.labels] == ["sky", "dog", "cat"]

    def test_black_and_white_leaves_void_gray(self):
        picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        visualizer = Visualizer(picture, METADATA, instance_mode=ColorMode.IMAGE_BW)
        drawn = visualizer.draw_panoptic_seg(*self.panoptic(), alpha=0.2).get_image()
        void = drawn[112:]
        assert (void == void[..., :1]).all()
        assert not (drawn[:50] == drawn[:50, :, :1]).all()

    def test_ids_may_hold_the_category(self):
        ids = torch.full((4, 4), -1)
        ids[:2], ids[2, :2] = 2000, 1
        prediction = _PanopticPrediction(ids, None, METADATA)
        ((mask, info),) = prediction.semantic_masks()
        assert (mask.sum(), info["category_id"]) == (8, 2)
        ((mask, info),) = prediction.instance_masks()
        assert (mask.sum(), info["category_id"], info["isthing"]) == (2, 0, True)
        assert prediction.non_empty_mask().sum() == 10

    def test_only_one_id_may_be_void(self):
        prediction = _PanopticPrediction(torch.tensor([[0, 1, 2]]), [{"id": 2, "isthing": True}])
        with pytest.raises(AssertionError, match=r"\[0, 1\]"):
            prediction.non_empty_mask()

    def test_without_void_nothing_is_known_to_be_filled(self):
        prediction = _PanopticPrediction(torch.ones(2, 2), [{"id": 1, "isthing": True}])
        assert not prediction.non_empty_mask().any()


class TestDatasetDict:
    def annotation(self, **more):
        return {
            "bbox": [20, 20, 60, 50],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": 0,
            "segmentation": [[20.0, 20, 80, 20, 80, 70]],
            **more,
        }

    def test_boxes_of_any_mode_are_drawn(self, visualizer):
        other = self.annotation(bbox=[100, 20, 150, 70], bbox_mode=BoxMode.XYXY_ABS)
        touched = changed(visualizer.draw_dataset_dict({"annotations": [self.annotation(), other]}))
        assert touched[20:70, 80].all() and touched[20:70, 150].all()

    def test_crowds_and_run_lengths_are_drawn(self, visualizer):
        from hotcoco import mask as rle_codec

        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[30:60, 30:60] = 1
        crowd = self.annotation(iscrowd=1, segmentation=rle_codec.encode(mask))
        visualizer.draw_dataset_dict({"annotations": [crowd]})
        assert [label.text for label in visualizer.output.labels] == ["cat|crowd"]

    def test_rotated_boxes_are_drawn(self, visualizer):
        box = {"bbox": [80, 60, 60, 30, 45], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 1}
        assert changed(visualizer.draw_dataset_dict({"annotations": [box]})).any()

    def test_keypoints_are_drawn(self, visualizer):
        points = [80, 20, 2, 60, 50, 2, 100, 50, 2, 65, 100, 0, 95, 100, 0]
        annotation = self.annotation(keypoints=points)
        touched = changed(visualizer.draw_dataset_dict({"annotations": [annotation]}))
        assert touched[50, 100]

    @pytest.mark.parametrize("metadata", [None, Metadata(), "catalog"])
    def test_without_names_classes_are_numbers(self, metadata):
        if metadata == "catalog":
            metadata = MetadataCatalog.get("a_dataset_nobody_registered")
        visualizer = Visualizer(gray_picture(), metadata)
        visualizer.draw_dataset_dict({"annotations": [self.annotation(category_id=3)]})
        assert [label.text for label in visualizer.output.labels] == ["3"]

    def test_label_maps_are_read_from_files(self, visualizer, tmp_path):
        labels = np.ones((HEIGHT, WIDTH), dtype=np.uint8)
        Image.fromarray(labels).save(tmp_path / "sem.png")
        visualizer.draw_dataset_dict({"sem_seg_file_name": str(tmp_path / "sem.png")})
        assert [label.text for label in visualizer.output.labels] == ["sky"]

    def test_segments_of_classes_without_names_are_drawn_with_their_numbers(self):
        visualizer = Visualizer(gray_picture(), Metadata(name="nameless"))
        labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        labels[40:80], labels[80:] = 7, 255  # 255 is ignored
        visualizer.draw_sem_seg(labels)
        assert {label.text for label in visualizer.output.labels} == {"0", "7"}
        infos = [
            {"id": 7, "isthing": True, "category_id": 4},
            {"id": 255, "isthing": False, "category_id": 9},
        ]
        visualizer = Visualizer(gray_picture(), Metadata(name="nameless"))
        visualizer.draw_panoptic_seg(torch.from_numpy(labels.astype(np.int32)), infos)
        assert {label.text for label in visualizer.output.labels} == {"4", "9"}

    def test_panoptic_maps_are_read_from_files(self, visualizer, tmp_path):
        digits = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        digits[:60], digits[60:] = (1, 2, 0), (0, 0, 1)  # ids 513 and 65536
        Image.fromarray(digits).save(tmp_path / "pan.png")
        infos = [
            {"id": 513, "isthing": True, "category_id": 0},
            {"id": 65536, "isthing": False, "category_id": 2},
        ]
        record = {"pan_seg_file_name": str(tmp_path / "pan.png"), "segments_info": infos}
        visualizer.draw_dataset_dict(record)
        assert [label.text for label in visualizer.output.labels] == ["grass", "cat"]


class TestHelpers:
    def test_names_that_other_projects_import(self):
        for name in ("_SMALL_OBJECT_AREA_THRESH", "_LARGE_MASK_AREA_THRESH", "_OFF_WHITE"):
            assert hasattr(module, name)
        assert module.random_color(rgb=True, maximum=1).max() <= 1
        assert module._KEYPOINT_THRESHOLD == 0.05

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (([0, 1], [0.5, 0.996], ["a", "b"]), ["a 50%", "b 100%"]),
            (([0, 7], None, ["a", "b"]), ["a", "7"]),
            (([3], None, None), ["3"]),
            ((None, [0.25], None), ["25%"]),
            (([0, 1], None, ["a", "b"], [True, 0]), ["a|crowd", "b"]),
            ((None, None, ["a"]), None),
        ],
    )
    def test_labels_are_put_together(self, arguments, expected):
        assert _create_text_labels(*arguments) == expected

    def test_jitter_moves_a_colour_by_half_a_unit(self, visualizer):
        for _ in range(20):
            moved = visualizer._jitter((0.4, 0.4, 0.4))
            distance = np.linalg.norm(np.array(moved) - 0.4)
            assert 0.5 - 1e-9 <= distance <= 0.5 + 1e-9 or max(moved) == 1.0
            assert max(moved) <= 1.0

    def test_brightness_factors_are_limited(self, visualizer):
        assert sum(visualizer._change_color_brightness("r", 0.7)) > 1.5
        with pytest.raises(AssertionError, match=r"\[-1, 1\], not 1\.5"):
            visualizer._change_color_brightness("r", 1.5)

    def test_letters_are_10_points_on_small_pictures_and_grow(self):
        def size(height, width, **options):
            picture = np.zeros((height, width, 3), np.uint8)
            return Visualizer(picture, METADATA, **options)._default_font_size

        assert size(100, 100) == 10
        assert size(1800, 1800) == 20
        assert size(100, 100, scale=2) == 5
        assert size(100, 100, font_size_scale=1.5) == 15

    def test_pictures_are_clipped_to_eight_bits(self):
        picture = np.full((10, 10, 3), 300.0)
        assert Visualizer(picture, METADATA).img.max() == 255
        tensor = torch.full((10, 10, 3), -5.0)
        assert Visualizer(tensor, METADATA).img.min() == 0

    def test_a_subclass_may_replace_steps(self):
        class Shouting(Visualizer):
            def _jitter(self, color):
                return (0.0, 1.0, 0.0)

            def draw_text(self, text, position, **options):
                return super().draw_text(text.upper(), position, **options)

        visualizer = Shouting(gray_picture(), METADATA, instance_mode=ColorMode.SEGMENTATION)
        picture = visualizer.draw_instance_predictions(make_instances(1)).get_image()
        assert [label.text for label in visualizer.output.labels] == ["CAT 95%"]
        assert picture[45, 45, 1] > 200
