import random

import numpy as np
import pytest

from detectron2.utils.colormap import colormap, random_color, random_colors
from detectron2.utils.drawing.colors import scale_lightness, text_color, to_rgb, to_rgb8


class TestPalette:
    def test_there_are_74_colours_up_to_255_in_bgr(self):
        palette = colormap()
        assert palette.shape == (74, 3)
        assert palette.dtype == np.float32
        assert palette.max() == 255
        np.testing.assert_allclose(palette[0], [188.955, 113.985, 0.0], rtol=1e-6)

    def test_rgb_is_bgr_turned_round(self):
        np.testing.assert_array_equal(colormap(rgb=True, maximum=1), colormap(maximum=1)[:, ::-1])

    @pytest.mark.parametrize(
        ("index", "color"),
        [(6, (0.635, 0.078, 0.184)), (11, (0.749, 0.749, 0)), (15, (0.333, 0.333, 0))]
        + [(24, (0, 0.333, 0.5)), (39, (0, 0.333, 1)), (53, (0.333, 0, 0))]
        + [(58, (0, 0.167, 0)), (70, (0, 0, 0)), (72, (0.857,) * 3), (73, (1, 1, 1))],
    )
    def test_landmarks_of_the_palette(self, index, color):
        np.testing.assert_allclose(colormap(rgb=True, maximum=1)[index], color, atol=1e-6)

    def test_a_random_color_is_one_of_the_palette_and_follows_numpys_seed(self):
        np.random.seed(4)
        first = random_color(rgb=True, maximum=1)
        np.random.seed(4)
        index = np.random.randint(0, 74)
        np.testing.assert_array_equal(first, colormap(rgb=True, maximum=1)[index])

    def test_random_colors_differ_and_follow_pythons_seed(self):
        random.seed(1)
        first = random_colors(74)
        assert len({tuple(color) for color in first}) >= 70  # black, red, green and blue recur
        random.seed(1)
        np.testing.assert_array_equal(random_colors(74), first)

    def test_more_colors_than_there_are_repeat(self):
        colors = random_colors(200, rgb=True)
        assert len(colors) == 200

    def test_another_maximum_is_refused(self):
        with pytest.raises(AssertionError, match="maximum=100"):
            colormap(maximum=100)

    def test_a_changed_color_does_not_change_the_palette(self):
        color = random_color(rgb=True, maximum=1)
        color[:] = 7
        assert colormap(rgb=True, maximum=1).max() == 1


class TestNames:
    @pytest.mark.parametrize("name", [*"rgbcmykw", "red", "navy", "#ff8800", "0.25"])
    def test_names_mean_what_they_mean_in_matplotlib(self, name):
        from matplotlib.colors import to_rgb as reference

        assert to_rgb(name) == pytest.approx(reference(name), abs=1e-6)

    @pytest.mark.parametrize("name", ["tab:orange", "tab:cyan"])
    def test_tableau_colours_are_known(self, name):
        from matplotlib.colors import to_rgb as reference

        assert to_rgb(name) == pytest.approx(reference(name), abs=1e-6)

    @pytest.mark.parametrize(
        "color", [(0.1, 0.2, 0.3), [0.1, 0.2, 0.3, 0.9], np.array([0.1, 0.2, 0.3])]
    )
    def test_numbers_are_taken_as_they_are_without_opacity(self, color):
        assert to_rgb(color) == pytest.approx((0.1, 0.2, 0.3))

    @pytest.mark.parametrize("bad", ["reddish", "2.5", (0.1, 0.2), (255, 0, 0), "tab:none"])
    def test_what_is_no_colour_is_named(self, bad):
        with pytest.raises(ValueError, match="colour"):
            to_rgb(bad)

    def test_eight_bits_are_rounded(self):
        assert to_rgb8((1.0, 0.5, 0.001)) == (255, 128, 0)


class TestBrightness:
    def test_lightness_is_scaled_and_kept_in_range(self):
        assert scale_lightness((0.5, 0.25, 0.25), 0.0) == pytest.approx((0.5, 0.25, 0.25))
        assert scale_lightness("r", 1.0) == pytest.approx((1, 1, 1))
        assert scale_lightness("r", -1.0) == pytest.approx((0, 0, 0))
        assert max(scale_lightness("r", -0.7)) < 0.4

    @pytest.mark.parametrize("color", ["k", "b", "navy", "r", "g", "w", (0.3, 0, 0.1)])
    def test_letters_stand_out_on_black(self, color):
        red, green, blue = text_color(color)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue >= 0.4 - 1e-9
        assert max(red, green, blue) <= 1
