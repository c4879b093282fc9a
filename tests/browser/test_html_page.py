import numpy as np

from detectron2.utils.html import Page, Series


def test_page_opens_with_its_pictures_and_charts(tmp_path, open_page):
    page = Page("A page", "with everything")
    page.table(["class", "AP"], [["a", 1.0]])
    page.charts({"loss": [Series("total", [0, 1, 2], [3.0, 2.0, 1.0])]})
    page.gallery([("a picture", {"left": np.zeros((8, 8, 3), np.uint8)})])
    opened = open_page(page.write(tmp_path / "page.html"))
    assert opened.console == [] and opened.requests == [] and opened.broken_pictures() == []
    assert opened.page.title() == "A page"
    assert opened.page.locator("svg polyline").count() == 1


def test_the_checks_notice_a_broken_page(tmp_path, open_page):
    path = tmp_path / "broken.html"
    path.write_text(
        '<img alt="gone" src="missing.png"><script>throw new Error("wrong")</script>', "utf-8"
    )
    opened = open_page(path)
    assert opened.broken_pictures() == ["gone"]
    assert any("wrong" in line for line in opened.console)
    assert any(url.endswith("missing.png") for url in opened.requests)
