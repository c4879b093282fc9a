"""Contours, coverage, labels and masks that the Visualizer draws with."""

import numpy as np
import pytest
from PIL import Image

from detectron2.utils.drawing import paint
from detectron2.utils.drawing.contours import trace
from detectron2.utils.drawing.layout import (
    central_points,
    label_font_fraction,
    median_point,
    rotated_corners,
    without_small_regions,
)
from detectron2.utils.drawing.text import (
    Label,
    Plate,
    choose_position,
    draw_label,
    plate_of,
    plate_size,
)
from detectron2.utils.visualizer import GenericMask

SIZE = (40, 60)  # height and width of canvases


def normal_form(points):
    """A closed polygon without regard to where it starts and which way it goes."""
    points = [tuple(point) for point in np.asarray(points).tolist()]
    return min(
        way[start:] + way[:start] for way in (points, points[::-1]) for start in range(len(points))
    )


class TestContours:
    @pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
    def test_outlines_are_those_of_opencv(self, density):
        import cv2

        rng = np.random.default_rng(int(10 * density))
        for _ in range(60):
            mask = rng.uniform(size=rng.integers(1, 12, 2)) < density
            expected, _ = cv2.findContours(
                mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
            )
            ours = sorted(normal_form(contour.points) for contour in trace(mask))
            assert ours == sorted(normal_form(c.reshape(-1, 2)) for c in expected)

    def test_areas_count_pixels_with_holes_filled(self):
        mask = np.zeros((20, 30), dtype=bool)
        mask[2:12, 3:18] = True
        mask[5:8, 6:10] = False
        region, hole = sorted(trace(mask), key=lambda contour: contour.is_hole)
        assert (region.area, region.is_hole) == (150, False)
        assert (hole.area, hole.is_hole) == (12, True)

    def test_pixels_that_touch_at_corners_are_one_region(self):
        assert len(trace(np.eye(5, dtype=bool))) == 1

    def test_a_single_pixel_is_a_contour_of_one_point(self):
        mask = np.zeros((4, 4), dtype=bool)
        mask[1, 2] = True
        (contour,) = trace(mask)
        assert contour.points.tolist() == [[2, 1]]
        assert contour.area == 1

    def test_an_empty_mask_has_no_contours(self):
        assert trace(np.zeros((5, 5), dtype=bool)) == []


class TestGenericMask:
    @pytest.fixture
    def mask(self):
        yy, xx = np.mgrid[0:40, 0:60]
        return ((xx - 30) / 20) ** 2 + ((yy - 20) / 12) ** 2 < 1

    def test_every_form_is_the_same_mask(self, mask):
        from hotcoco import mask as rle_codec

        compressed = rle_codec.encode(mask)
        flat = mask.flatten(order="F")
        changes = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *changes, len(flat)]).tolist()
        forms = [mask, mask.astype(np.uint8), compressed, {"size": [40, 60], "counts": counts}]
        for form in forms:
            generic = GenericMask(form, 40, 60)
            np.testing.assert_array_equal(generic.mask, mask)
            assert generic.mask.dtype == np.uint8
            assert generic.area() == mask.sum()

    def test_polygons_of_a_mask_draw_nearly_the_same_mask(self, mask):
        generic = GenericMask(mask, 40, 60)
        again = GenericMask(generic.polygons, 40, 60)
        common = (again.mask & generic.mask).sum()
        assert common / (again.mask | generic.mask).sum() > 0.9
        assert not again.has_holes

    def test_holes_are_seen(self, mask):
        assert not GenericMask(mask, 40, 60).has_holes
        mask[18:22, 28:32] = False
        generic = GenericMask(mask, 40, 60)
        assert generic.has_holes
        assert len(generic.polygons) == 2

    def test_polygons_stay_as_they_are(self):
        generic = GenericMask([[1.0, 1, 9, 1, 9, 9]], 40, 60)
        generic.area()
        assert not generic.has_holes
        assert [p.tolist() for p in generic.polygons] == [[1, 1, 9, 1, 9, 9]]

    def test_quirk_the_box_is_that_of_the_outline_through_pixel_centres(self):
        mask = np.zeros((40, 60), dtype=bool)
        mask[10:20, 30:50] = True
        assert GenericMask(mask, 40, 60).bbox().tolist() == [31, 11, 50, 20]

    def test_an_empty_mask_has_an_empty_box(self):
        empty = GenericMask(np.zeros((40, 60), dtype=bool), 40, 60)
        assert empty.bbox().tolist() == [0, 0, 0, 0]
        assert empty.polygons == []

    def test_no_polygons_are_an_empty_mask(self):
        assert GenericMask([], 40, 60).area() == 0

    def test_sizes_must_agree(self, mask):
        with pytest.raises(AssertionError, match=r"\(40, 60\).*\(60, 40\)"):
            GenericMask(mask, 60, 40)
        with pytest.raises(AssertionError, match="picture"):
            GenericMask({"size": [1, 2], "counts": b""}, 60, 40)

    def test_other_things_are_no_masks(self):
        with pytest.raises(ValueError, match="not str"):
            GenericMask("mask", 40, 60)
        with pytest.raises(ValueError, match="'size' and 'counts'"):
            GenericMask({"counts": b""}, 40, 60)


class TestCoverage:
    def paint(self, patch, color=(255, 0, 0), alpha=1.0):
        canvas = Image.new("RGB", SIZE[::-1])
        if patch is not None:
            paint.blend(canvas, patch, color, alpha)
        return np.asarray(canvas)

    def test_blending_is_a_weighted_mean_within_the_patch(self):
        coverage = np.array([[255, 51, 0]], dtype=np.uint8)
        got = self.paint(paint.Patch(coverage, 5, 7), (200, 100, 0), 0.5)
        assert got[7, 5].tolist() == [100, 50, 0]
        assert got[7, 6].tolist() == [20, 10, 0]
        assert got.sum() == 150 + 30

    def test_truth_values_cover_fully(self):
        got = self.paint(paint.Patch(np.ones((2, 2), dtype=bool), 0, 0), (100, 100, 100), 0.4)
        assert got[:2, :2].tolist() == [[[40] * 3] * 2] * 2

    @pytest.mark.parametrize("corner", [(-3, -3), (58, 38), (-100, 0), (0, 400)])
    def test_what_lies_off_the_canvas_is_cut_off(self, corner):
        got = self.paint(paint.Patch(np.full((5, 5), 255, np.uint8), *corner))
        x, y = corner
        columns = max(min(x + 5, 60) - max(x, 0), 0)
        rows = max(min(y + 5, 40) - max(y, 0), 0)
        assert (got[..., 0] > 0).sum() == columns * rows

    def test_a_polygon_covers_its_area(self):
        points = np.array([[10.0, 5], [40, 5], [40, 25], [10, 25]])
        coverage = paint.polygon(points, SIZE).coverage
        assert coverage.sum() / 255 == pytest.approx(600, rel=0.04)

    def test_slanted_edges_are_smooth(self):
        patch = paint.polygon(np.array([[5.0, 5], [50, 12], [20, 35]]), SIZE)
        levels = np.unique(patch.coverage)
        assert len(levels) > 8

    def test_a_disk_covers_its_area(self):
        coverage = paint.disk((30, 20), 10, SIZE).coverage
        assert coverage.sum() / 255 == pytest.approx(np.pi * 100, rel=0.05)

    def test_a_line_covers_length_times_width(self):
        points = np.array([[5.0, 5], [45, 35]])
        coverage = paint.stroke(points, 3.0, SIZE).coverage
        assert coverage.sum() / 255 == pytest.approx(150, rel=0.1)

    def test_dashes_leave_gaps(self):
        points = np.array([[2.0, 20], [58, 20]])
        whole, dashed = (paint.stroke(points, 2.0, SIZE, style) for style in ("-", "--"))
        ratio = dashed.coverage.sum() / whole.coverage.sum()
        assert 0.5 < ratio < 0.85
        with pytest.raises(ValueError, match="'wavy'"):
            paint.stroke(points, 2.0, SIZE, "wavy")

    def test_shapes_off_the_canvas_have_no_coverage(self):
        away = np.array([[100.0, 100], [200, 100], [200, 200]])
        assert paint.polygon(away, SIZE) is None
        assert paint.stroke(away, 2.0, SIZE) is None
        assert paint.disk((500, 500), 3, SIZE) is None
        assert paint.box_frame((100, 100, 200, 200), 2.0, SIZE) == []

    @pytest.mark.parametrize("box", [(10, 8, 40, 30), (10.3, 8.6, 40.9, 30.2), (5, 5, 6, 6)])
    def test_a_frame_covers_its_perimeter(self, box):
        width = 3.0
        total = sum(patch.coverage.sum() for patch in paint.box_frame(box, width, SIZE)) / 255
        x0, y0, x1, y1 = box
        w, h = x1 - x0, y1 - y0
        inner = max(w - width, 0) * max(h - width, 0)
        assert total == pytest.approx((w + width) * (h + width) - inner, rel=0.01)

    @pytest.mark.parametrize("width", [1.0, 1.4, 3.0])
    def test_the_outline_of_a_mask_is_as_wide_as_it_should_be(self, width):
        mask = np.ones((20, 30), dtype=bool)
        coverage = paint.mask_outline(mask, (0, 0), width).coverage
        perimeter = 2 * (20 + 30) - 4
        assert coverage.sum() / 255 == pytest.approx(perimeter * width, rel=0.12)

    @pytest.mark.parametrize("scale", [0.5, 1.0, 1.7, 3.0])
    def test_a_mask_keeps_its_place_and_size_at_any_scale(self, scale):
        mask = np.zeros((60, 80), dtype=bool)
        mask[15:45, 20:60] = True
        size = (int(60 * scale), int(80 * scale))
        inside, (left, top) = paint.resample_mask(mask, size)
        assert inside.sum() == pytest.approx(mask.sum() * scale**2, rel=0.1)
        assert (left, top) == pytest.approx((20 * scale, 15 * scale), abs=1)

    def test_an_empty_mask_resamples_to_nothing(self):
        inside, _ = paint.resample_mask(np.zeros((60, 80), dtype=bool), (120, 160))
        assert inside.size == 0


class TestLayout:
    def test_corners_turn_anticlockwise_on_screen(self):
        # A wide box turned by 90 degrees: its right end points up.
        corners = rotated_corners((10, 10, 8, 2, 90))
        np.testing.assert_allclose(corners[2:].mean(axis=0), [10, 6], atol=1e-9)

    def test_corners_begin_at_the_bottom_left(self):
        corners = rotated_corners((10, 10, 8, 2, 0))
        np.testing.assert_allclose(corners, [[6, 11], [6, 9], [14, 9], [14, 11]])

    def test_labels_grow_with_their_object_between_limits(self):
        assert label_font_fraction(1, 1000) == 0.6
        assert label_font_fraction(70, 1000) == pytest.approx(0.8125)
        assert label_font_fraction(900, 1000) == 1.0

    def test_the_median_is_that_of_numpy(self):
        mask = np.random.default_rng(0).uniform(size=(15, 22)) < 0.3
        assert median_point(mask) == tuple(np.median(mask.nonzero(), axis=1)[::-1])

    def test_small_regions_are_taken_out_whole(self):
        mask = np.zeros((30, 30), dtype=bool)
        mask[2:12, 2:12] = True
        mask[20:22, 20:22] = True
        mask[25, 5] = True
        kept = without_small_regions(mask, trace(mask), 10)
        assert kept.sum() == 100
        assert mask.sum() == 105  # the input is not changed
        assert without_small_regions(mask, trace(mask), 0) is mask

    def test_text_goes_to_the_largest_region_and_other_large_ones(self):
        mask = np.zeros((40, 60), dtype=bool)
        mask[0:10, 0:10] = mask[20:35, 0:20] = mask[20:30, 40:52] = True
        assert central_points(mask, large_area=1000) == [(9.5, 27.0)]
        assert sorted(central_points(mask, large_area=110)) == [(9.5, 27.0), (45.5, 24.5)]
        assert central_points(np.zeros((5, 5), dtype=bool), 10) == []


class TestLabels:
    LABEL = Label("name", 20, 10, 12, (255, 255, 255), "left")

    def test_letters_lie_on_a_dark_plate(self):
        canvas = Image.new("RGB", (100, 60), (255, 255, 255))
        draw_label(canvas, self.LABEL)
        plate = plate_of(self.LABEL)
        inside = np.asarray(canvas)[int(plate.top) : int(plate.bottom), 19 : int(plate.right)]
        assert inside.min() == 51  # white seen through the plate, which is 80 % opaque
        assert inside.max() == 255
        assert (np.asarray(canvas)[40:] == 255).all()

    def test_plates_are_of_one_height(self):
        assert plate_size("ace", 12)[1] == plate_size("lpÂg", 12)[1] == plate_size("", 12)[1]

    @pytest.mark.parametrize(("align", "shift"), [("left", 0), ("center", 0.5), ("right", 1)])
    def test_the_position_is_the_named_point_of_the_top(self, align, shift):
        plate = plate_of(Label("name", 50, 10, 12, (0, 0, 0), align))
        width = plate.right - plate.left
        assert plate.left + shift * width == pytest.approx(50, abs=2)

    def test_a_turned_label_takes_more_room(self):
        turned = plate_of(Label("a long name", 0, 0, 12, (0, 0, 0), "left", 45))
        upright = plate_of(Label("a long name", 0, 0, 12, (0, 0, 0), "left"))
        assert turned.bottom - turned.top > 2 * (upright.bottom - upright.top)

    def test_the_first_free_spot_is_taken(self):
        taken = [Plate(0, 0, 200, 40)]
        spots = [(20, 10, "left"), (20, 60, "left"), (20, 90, "left")]
        assert choose_position(self.LABEL, taken, spots, (200, 200)) == (20, 60, "left")

    def test_a_tolerated_overlap_changes_nothing(self):
        taken = [Plate(0, 0, 200, 13)]
        spots = [(20, 10, "left"), (20, 60, "left")]
        chosen = choose_position(self.LABEL, taken, spots, (200, 200), tolerance=0.5)
        assert chosen == (20, 10, "left")

    def test_without_free_spot_the_least_hidden_is_taken(self):
        taken = [Plate(0, 0, 200, 100), Plate(0, 100, 200, 109)]
        spots = [(20, 40, "left"), (20, 100, "left")]
        assert choose_position(self.LABEL, taken, spots, (200, 200)) == (20, 100, "left")

    @pytest.mark.parametrize("spot", [(-50, 20), (500, 20), (20, -50), (20, 500)])
    def test_labels_stay_within_the_picture(self, spot):
        x, y, align = choose_position(self.LABEL, [], [(*spot, "left")], (100, 150))
        plate = plate_of(Label("name", x, y, 12, (0, 0, 0), align))
        assert plate.left >= 0 and plate.top >= 0
        assert plate.right <= 150 and plate.bottom <= 100
