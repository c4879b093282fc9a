import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from detectron2.data.datasets import drawn_shapes
from detectron2.data.datasets.drawn_shapes import CATEGORIES, KEYPOINTS, write_drawn_shapes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_drawn_shapes(root, train_images=30, val_images=4)
    return root


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return [(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


def test_convention_two_calls_write_the_same_bytes(dataset, tmp_path):
    write_drawn_shapes(tmp_path, train_images=30, val_images=4)
    assert digest(tmp_path) == digest(dataset)


def test_another_seed_draws_other_images(dataset, tmp_path):
    write_drawn_shapes(tmp_path, train_images=30, val_images=4, seed=1)
    assert digest(tmp_path) != digest(dataset)


def test_train_and_val_share_no_image(dataset):
    train = {h for _, h in digest(dataset / "train")}
    assert train.isdisjoint(h for _, h in digest(dataset / "val"))


def test_every_kind_of_annotation_occurs(dataset):
    annotations = json.loads((dataset / "train.json").read_text())["annotations"]
    assert {a["category_id"] for a in annotations} == set(range(1, len(CATEGORIES) + 1))
    kinds = {type(a["segmentation"]).__name__ for a in annotations if not a["iscrowd"]}
    assert kinds == {"list", "dict"}
    crowds = [a for a in annotations if a["iscrowd"]]
    assert crowds and all(isinstance(a["segmentation"]["counts"], list) for a in crowds)
    assert all(len(a["keypoints"]) == 3 * len(KEYPOINTS) for a in annotations)


def test_masks_boxes_and_areas_agree(dataset):
    from hotcoco import mask as coco_mask

    content = json.loads((dataset / "train.json").read_text())
    sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    for a in content["annotations"]:
        rle = coco_mask.frPyObjects(a["segmentation"], *sizes[a["image_id"]])
        mask = coco_mask.decode(rle if isinstance(rle, dict) else coco_mask.merge(rle))
        ys, xs = np.nonzero(mask)
        assert int(mask.sum()) == a["area"]
        box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        assert box == a["bbox"]


def test_seen_keypoints_lie_on_the_box_border(dataset):
    # Only for shapes that nothing covers: there the box is that of the outline.
    for a in json.loads((dataset / "train.json").read_text())["annotations"]:
        if not isinstance(a["segmentation"], list):
            continue
        x, y, w, h = a["bbox"]
        left, top, right, bottom = np.array(a["keypoints"]).reshape(4, 3)
        found = [left[0], top[1], right[0], bottom[1]]
        assert np.abs(np.array(found) - [x, y, x + w, y + h]).max() <= 1.5


def test_image_files_have_the_listed_size(dataset):
    content = json.loads((dataset / "val.json").read_text())
    for image in content["images"]:
        with Image.open(dataset / "val" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


def test_registered_dataset_loads_as_records(dataset):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    train, val = drawn_shapes.register_drawn_shapes(dataset, prefix="drawn_shapes_test")
    records = DatasetCatalog.get(train)
    assert len(records) == 30 and len(DatasetCatalog.get(val)) == 4
    assert MetadataCatalog.get(train).thing_classes == list(CATEGORIES)
    assert {a["category_id"] for r in records for a in r["annotations"]} == set(range(5))
    for name in (train, val):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
