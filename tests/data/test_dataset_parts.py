"""Numbers of a dataset, and parts of it."""

from collections import Counter

import numpy as np
import pytest
from folder_datasets import make_content

from detectron2.data.dataset_stats import class_table, measure, warnings_of
from detectron2.data.datasets.convert import Content, sample_content, split_content
from detectron2.structures import BoxMode
from detectron2.utils.html.histograms import heat_map, histogram, rows_of_bars


def record(name, *classes, box=(0, 0, 10, 20)):
    annotations = [
        {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": c} for c in classes
    ]
    return {"file_name": name, "width": 100, "height": 50, "annotations": annotations}


def long_tail(images=200):
    """One class in every image, one in half of them, one in ten images."""
    records = []
    for i in range(images):
        classes = [0] + ([1] if i % 2 else []) + ([2] if i % 20 == 0 else [])
        records.append(record(f"{i}.png", *classes))
    return Content(splits={"all": records}, classes=["often", "half", "rare"])


def test_every_split_gets_its_share_of_every_class():
    content = split_content(long_tail(), {"train": 0.7, "val": 0.2, "test": 0.1})
    assert [len(records) for records in content.splits.values()] == [140, 40, 20]
    counts = {
        split: Counter(a["category_id"] for r in records for a in r["annotations"])
        for split, records in content.splits.items()
    }
    assert [counts[split][2] for split in counts] == [7, 2, 1]
    assert [counts[split][1] for split in counts] == [70, 20, 10]
    names = [r["file_name"] for records in content.splits.values() for r in records]
    assert len(set(names)) == 200


def test_another_seed_deals_other_images():
    def val(seed):
        parts = split_content(long_tail(), {"train": 0.8, "val": 0.2}, seed)
        return [r["file_name"] for r in parts.splits["val"]]

    assert val(0) == val(0) != val(1)


def test_shares_have_to_add_up():
    with pytest.raises(ValueError, match="must add up to 1"):
        split_content(long_tail(), {"train": 0.7, "val": 0.2})
    with pytest.raises(ValueError, match="too few for the split 'val'"):
        split_content(long_tail(2), {"train": 0.99, "val": 0.01})


def test_a_sample_shows_every_class_first():
    sample = sample_content(long_tail(), 10, per_class=3)
    (records,) = sample.splits.values()
    assert len(records) == 10
    assert sum(2 in [a["category_id"] for a in r["annotations"]] for r in records) >= 3
    with pytest.raises(ValueError, match="201 images cannot be chosen of 200"):
        sample_content(long_tail(), 201)


def test_a_sample_takes_from_every_split(tmp_path):
    content = make_content(tmp_path, "boxes", images=8)
    assert [len(r) for r in sample_content(content, 5).splits.values()] == [2, 3]


def test_numbers_of_a_dataset():
    crowd = record("c.png", 0)
    crowd["annotations"][0]["iscrowd"] = 1
    records = [record("a.png", 0, 0, 1), record("b.png", 1, box=(90, 40, 40, 0.5)), crowd]
    content = Content(splits={"train": records, "val": [record("d.png", 0)]}, classes=["x", "y"])
    stats = measure(content)
    train = stats["train"]
    assert (train.images, train.without_objects, train.crowds) == (3, 1, 1)
    assert train.objects == {0: 2, 1: 2} and train.images_of == {0: 1, 1: 2}
    assert train.size_counts()[:3] == [1, 3, 0]  # roots of 20 and of 200
    assert train.aspect_counts()[3] == 3 and train.aspect_counts()[-1] == 1
    assert train.positions[2, 0] == 3 and train.positions[-3:, -1].sum() == 1
    assert class_table(stats, ["x", "y"]) == [("x", [2, 1], [1, 1]), ("y", [2, 0], [2, 0])]
    said = " ".join(warnings_of(stats, ["x", "y"]))
    assert "val shows nothing of y." in said and "1 boxes are thinner" in said
    assert "RepeatFactorTrainingSampler" in " ".join(
        warnings_of(measure(long_tail(1000)), ["often", "half", "rare"])
    )


def test_charts_are_drawn_to_scale():
    drawn = histogram("Sizes", ["0", "8", "16"], {"a": [2, 4], "b": [0, 1]})
    assert drawn.count("<rect") == 4 + 2  # bars, and a legend
    heights = [float(part.split('"')[0]) for part in drawn.split('height="')[1:5]]
    assert heights[1] == pytest.approx(2 * heights[0]) and heights[2] == 0
    with pytest.raises(ValueError, match="has 1 counts for 2 bars"):
        histogram("Sizes", ["0", "8", "16"], {"a": [2]})
    rows = rows_of_bars("Classes", {"<cat>": [3], "dog": [6]}, ["all"])
    assert "&lt;cat&gt;" in rows and "<cat>" not in rows
    cells = heat_map("Centres", np.array([[0, 1], [2, 4]]))
    assert [f'fill-opacity="{o}"' in cells for o in ("0.000", "0.250", "0.500", "1.000")] == [
        True
    ] * 4
