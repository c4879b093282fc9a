import json

from detectron2.data.check import Cache, check, coco_dataset, write_report
from detectron2.data.datasets.drawn_shapes import write_drawn_shapes


def test_report_of_a_broken_dataset_opens_with_pictures(tmp_path, open_page):
    write_drawn_shapes(tmp_path, train_images=4, val_images=1, size=(48, 64))
    content = json.loads((tmp_path / "train.json").read_text())
    content["annotations"][0]["bbox"] = [50, 10, 40, 20]
    content["categories"].append({"id": 9, "name": "<script>alert(1)</script>"})
    (tmp_path / "train" / "00003.png").write_bytes(b"no image")
    copy = (tmp_path / "train" / "00000.png").read_bytes()
    (tmp_path / "train" / "00002.png").write_bytes(copy)
    (tmp_path / "train.json").write_text(json.dumps(content))
    dataset = coco_dataset(tmp_path / "train.json", tmp_path / "train")
    report = check(dataset, cache=Cache(enabled=False))
    opened = open_page(write_report(report, dataset, tmp_path / "out", "report"))
    assert opened.console == [] and opened.requests == [] and opened.broken_pictures() == []
    page = opened.page
    headings = [heading.inner_text() for heading in page.locator("h2").all()]
    for title in ("Boxes that reach out of the image", "Image files that cannot be decoded"):
        assert any(heading.startswith(title) for heading in headings)
    assert page.locator("img").count() == 3  # a box, and two images that look the same
    assert "<script>alert(1)</script>" in page.locator("body").inner_text()
