"""Reports as a reader sees them: they open, pictures show, tables sort."""

import json

import numpy as np
import pytest
from PIL import Image

from detectron2.evaluation.analysis import compare, read_run, write_report
from detectron2.evaluation.analysis.report import write_comparison

NAMES = ["disc", "box", "a <b>bold</b> name"]
HEIGHT, WIDTH = 90, 120


def ellipse(box):
    from hotcoco import mask as codec

    yy, xx = np.mgrid[0:HEIGHT, 0:WIDTH]
    x, y, w, h = box
    rle = codec.encode((2 * (xx - x) / w - 1) ** 2 + (2 * (yy - y) / h - 1) ** 2 < 1)
    return {**rle, "counts": rle["counts"].decode()}


def item(image, category, box, **entries):
    box = [float(value) for value in box]
    rest = {"bbox": box, "segmentation": ellipse(box), **entries}
    return {"image_id": image, "category_id": category, **rest}


def write_data(folder):
    """Images, ground truth, and detections of a good and a bad model."""
    rng = np.random.default_rng(0)
    images, objects, runs = [], [], {"good": [], "bad": []}
    (folder / "photos").mkdir()
    for image in range(1, 9):
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{image}.jpg")
        images.append({"id": image, "height": HEIGHT, "width": WIDTH, "file_name": f"{image}.jpg"})
        for _ in range(4):
            category, box = int(rng.integers(1, 4)), rng.uniform(10, 50, 4)
            area = float(box[2] * box[3] * 0.78)
            entries = {"id": len(objects) + 1, "area": area, "iscrowd": 0}
            objects.append(item(image, category, box, **entries))
            for name, noise in (("good", 1.5), ("bad", 5.0)):
                shifted = box + rng.normal(size=4) * noise
                guess = category if rng.uniform() < 0.8 else 1
                score = float(rng.uniform(0.3, 1))
                runs[name].append(item(image, guess, shifted, score=score))
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
    truth = {"images": images, "annotations": objects, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(truth))
    for name, detections in runs.items():
        (folder / f"{name}.json").write_text(json.dumps(detections))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    write_data(folder)
    runs = [read_run(folder / f"{n}.json", folder / "truth.json") for n in ("good", "bad")]
    photos = str(folder / "photos")
    report = write_report(runs[0], folder / "report", photos)
    comparison = compare(*runs, "segm")
    return report, write_comparison(comparison, tuple(runs), folder / "comparison", photos)


def column(table, number):
    return table.locator(f"tbody tr td:nth-child({number})").all_inner_texts()


@pytest.mark.parametrize("number, pictures", [(0, 2), (1, 3)], ids=["report", "comparison"])
def test_convention_reports_open_without_an_error(pages, open_page, number, pictures):
    opened = open_page(pages[number])
    assert opened.console == [] and opened.requests == [] and opened.broken_pictures() == []
    page = opened.page
    figures = page.locator("figure")
    assert figures.count() > 0
    assert page.locator("figure img").count() == pictures * figures.count()
    assert page.locator("svg").count() >= 4
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    text = page.locator("body").inner_text()
    assert "<b>bold</b>" in text and "NaN" not in text and "undefined" not in text


def test_convention_tables_sort_by_a_click(pages, open_page):
    opened = open_page(pages[0])
    table = opened.page.locator("table.sortable").first
    before = column(table, 1)
    table.locator("th button", has_text="AP masks").first.click()
    values = [float(value) for value in column(table, 2)]
    assert values == sorted(values, reverse=True)
    table.locator("th button", has_text="AP masks").first.click()
    assert [float(value) for value in column(table, 2)] == values[::-1]
    table.locator("th button", has_text="class").first.click()
    assert column(table, 1) == sorted(before)
    head = table.locator("th").first
    assert head.get_attribute("aria-sort") == "ascending" and opened.console == []


def test_links_at_the_top_lead_to_the_parts(pages, open_page):
    opened = open_page(pages[0])
    links = opened.page.locator("nav a")
    assert links.count() >= 8
    for index in range(links.count()):
        target = links.nth(index).get_attribute("href")
        assert opened.page.locator(target).inner_text() == links.nth(index).inner_text()


def test_a_narrow_window_shows_everything(pages, open_page):
    opened = open_page(pages[0])
    opened.page.set_viewport_size({"width": 390, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
