"""The page of a server as a visitor uses it."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from serving_support import bright_model, encoded, find_bright, picture_of, serving

from detectron2.engine.serving import ServeLimits
from detectron2.structures import Instances

WIDTH = 300
BOXES = ((30, 20, 110, 90), (150, 60, 260, 150))


def two_of_different_scores(inputs):
    """The bright box of each half of the picture, the right one with a lower score."""
    results = []
    for each in inputs:
        image, half = each["image"], each["width"] // 2
        found = []
        for part, score in ((slice(0, half), 0.9), (slice(half, None), 0.4)):
            alone = image * 0
            alone[:, :, part] = image[:, :, part]
            found.append(find_bright({**each, "image": alone}, score)["instances"])
        results.append({"instances": Instances.cat(found)})
    return results


@pytest.fixture
def page(open_page, tmp_path):
    with serving(bright_model(two_of_different_scores), ServeLimits(max_pixels=200_000)) as address:
        blank = tmp_path / "blank.html"
        blank.write_text('<link rel="icon" href="data:,">', "utf-8")
        opened = open_page(blank)
        opened.page.set_viewport_size({"width": 1100, "height": 640})
        opened.page.goto(f"http://{address[0]}:{address[1]}/")
        opened.page.locator("#model", has_text="bright").wait_for()
        opened.address = f"http://{address[0]}:{address[1]}/"
        yield opened


def photo(tmp_path):
    pixels = picture_of(BOXES[0], (200, WIDTH))
    x0, y0, x1, y1 = BOXES[1]
    pixels[y0:y1, x0:x1] = 255
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(pixels))
    return path


def rows(page):
    return page.locator("#found li").all_inner_texts()


def color_at(page, x, y):
    """RGB of the shown picture at a place of the photo."""
    return page.evaluate(
        f"""(() => {{
          const canvas = document.getElementById('canvas'), scale = canvas.width / {WIDTH};
          const place = [{x}, {y}].map(side => Math.floor((side + 0.5) * scale));
          return [...canvas.getContext('2d').getImageData(...place, 1, 1).data];
        }})()"""
    )[:3]


DROP = """async ([text, name]) => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  document.getElementById("drop").dispatchEvent(
    new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def test_a_dropped_picture_shows_boxes_and_masks_above_the_threshold(page, tmp_path):
    import base64

    view, path = page.page, photo(tmp_path)
    view.evaluate(DROP, [base64.b64encode(path.read_bytes()).decode(), "photo.png"])
    view.locator("#found li").first.wait_for()
    assert view.locator("#status").inner_text().startswith("300 × 200 pixels, 2 found, ")
    # The first opening shows what is surer than 0.5.
    assert rows(view) == ["left\n0.900"]
    assert view.locator("#count").inner_text() == "Not shown, of a lower score: 1."
    # A small picture is shown large enough for its names to be read.
    assert view.evaluate("document.getElementById('canvas').width") == 800
    inside, outside, other = (70, 55), (10, 190), (205, 105)
    assert color_at(view, *inside) != [255, 255, 255] and color_at(view, *outside) == [60, 60, 60]
    assert color_at(view, *other) == [255, 255, 255]
    view.locator("#threshold").fill("0.3")
    assert rows(view) == ["left\n0.900", "right\n0.400"]
    assert color_at(view, *other) != [255, 255, 255]
    if folder := os.environ.get("DETECTRON2_SCREENSHOTS"):
        view.screenshot(path=str(Path(folder) / "serve.png"))
    view.locator("#masks").uncheck()
    assert color_at(view, *inside) == color_at(view, *other) == [255, 255, 255]
    edge = (BOXES[0][0] - 0.4, 55)
    assert color_at(view, *edge) != [255, 255, 255]
    view.locator("#boxes").uncheck()
    assert color_at(view, BOXES[0][0] + 1, 55) == [255, 255, 255]
    view.locator("#threshold").fill("0.95")
    assert rows(view) == [] and "None has that score" in view.locator("#count").inner_text()
    own = [url for url in page.requests if not url.startswith(page.address)]
    assert page.console == [] and own == []


def test_what_the_server_refuses_is_said_on_the_page(page, tmp_path):
    view = page.page
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    view.locator("#file").set_input_files(str(bad))
    view.locator("#status.wrong").wait_for()
    assert "The image cannot be decoded" in view.locator("#status").inner_text()
    view.locator("#file").set_input_files(str(photo(tmp_path)))
    view.locator("#found li").first.wait_for()
    assert view.locator("#status.wrong").count() == 0
