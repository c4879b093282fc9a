import math

import numpy as np
import pytest

from detectron2.utils.html import Page, Series, line_chart
from detectron2.utils.html.chart import _ticks


def test_texts_are_escaped():
    page = Page("<b>title</b>")
    page.paragraph("<script>alert(1)</script>")
    page.table(["a<b"], [["<i>"]])
    page.gallery([("<em>", {"<u>": np.zeros((2, 2, 3), np.uint8)})])
    html = page.html()
    for tag in ("<b>", "<script", "<i>", "<em>", "<u>"):
        assert tag not in html


def test_page_refers_to_nothing_outside(tmp_path):
    page = Page("t", "s")
    page.charts({"loss": [Series("total", [0, 1, 2], [3.0, 2.0, 1.0])]})
    page.gallery([("c", {"l": np.zeros((2, 2, 3), np.uint8)})])
    html = page.write(tmp_path / "page.html").read_text()
    addresses = html.replace("http://www.w3.org/2000/svg", "")  # a name, never fetched
    assert "http://" not in addresses and "https://" not in addresses and 'src="data:' in html


def test_table_shows_two_decimals_and_a_dash_for_nan():
    page = Page("t")
    page.table(["class", "AP"], [["a", 1.234], ["b", math.nan]])
    assert "<td>1.23</td>" in page.html() and "<td>–</td>" in page.html()


def test_points_that_are_not_finite_are_left_out():
    svg = line_chart("loss", [Series("a", [0, 1, 2], [1.0, math.nan, 3.0])])
    assert svg.count(",") == 2  # two "x,y" pairs in the polyline


def test_chart_without_points_is_an_error():
    with pytest.raises(ValueError, match="'loss' has no finite point"):
        line_chart("loss", [Series("a", [0.0], [math.inf])])


@pytest.mark.parametrize("low, high", [(0, 1), (0, 0), (5, 5), (-3, 1234), (0.001, 0.002)])
def test_ticks_are_few_and_cover_the_range(low, high):
    ticks = _ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
