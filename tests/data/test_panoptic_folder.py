"""Folders in COCO's panoptic format: a JSON file of segments and the PNG files that draw them."""

import json

import numpy as np
import pytest
from folder_datasets import draw, write_panoptic
from PIL import Image

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data._segmentations import decode_rle
from detectron2.data.datasets import register_coco_panoptic_separated, write_stuff_maps
from detectron2.data.datasets.auto import recognize, register_folder
from detectron2.data.datasets.convert import convert_dataset
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode

pytestmark = pytest.mark.usefixtures("catalogs_as_before")


@pytest.fixture
def folder(tmp_path):
    return write_panoptic(tmp_path)


def test_things_become_objects_with_masks(folder):
    found = recognize(folder)
    assert found.format == "COCO panoptic" and found.classes == ["ball", "dog"]
    assert list(found.splits) == ["train", "val"]
    (record,) = found.splits["val"]()
    assert record["file_name"].endswith("val2017/000001.jpg")
    ball, dog, crowd = record["annotations"]
    assert (ball["bbox"], ball["bbox_mode"]) == ([5, 10, 25, 20], BoxMode.XYXY_ABS)
    assert [a["category_id"] for a in (ball, dog, crowd)] == [0, 1, 1]
    assert [a["iscrowd"] for a in (ball, dog, crowd)] == [0, 0, 1]
    mask = decode_rle(dog["segmentation"])
    assert mask[30:40, 40:60].all() and mask.sum() == 200
    assert any("stuff" in note for note in found.notes)


def test_instances_are_taken_where_there_are_both(folder):
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 10, 20, 10], "iscrowd": 0}
    content = json.loads((folder / "annotations" / "panoptic_val2017.json").read_text())
    content.update(annotations=[box], categories=[{"id": 1, "name": "ball"}])
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    assert recognize(folder).format == "COCO"


def test_a_panoptic_folder_is_converted_like_others(folder, tmp_path):
    dataset = register_folder(folder, "panoptic_things")
    convert_dataset(dataset, tmp_path / "out", "coco")
    again = register_folder(tmp_path / "out", "converted_things")
    for split in ("train", "val"):
        want, got = (DatasetCatalog.get(d.names[split])[0] for d in (dataset, again))
        assert MetadataCatalog.get(again.names[split]).thing_classes == ["ball", "dog"]
        for one, other in zip(want["annotations"], got["annotations"], strict=True):
            assert (decode_rle(one["segmentation"]) == decode_rle(other["segmentation"])).all()


@pytest.mark.parametrize("fault", ["no drawings", "broken drawing", "other size", "category"])
def test_faults_are_told_in_a_sentence(folder, fault):
    for split in ("train", "val"):
        path = folder / "annotations" / f"panoptic_{split}2017.json"
        drawing = folder / "annotations" / f"panoptic_{split}2017" / "000001.png"
        if fault == "no drawings":
            drawing.unlink()
        elif fault == "broken drawing":
            drawing.write_bytes(b"no image")
        elif fault == "other size":
            draw(drawing, width=9)
        else:
            path.write_text(path.read_text().replace('"category_id": 37', '"category_id": 38'))
    reason = {
        "no drawings": "The PNG files of .* are not to be found",
        "broken drawing": "cannot be read",
        "other size": "is 9 x 48 pixels",
        "category": "category_id 38, which is not listed",
    }
    with pytest.raises(ValueError, match=reason[fault]):
        recognize(folder)


class TestStuffMaps:
    @staticmethod
    def write(folder, **options):
        annotations = folder / "annotations"
        names = write_stuff_maps(
            str(annotations / "panoptic_val2017.json"), str(annotations / "panoptic_val2017"),
            str(folder / "stuff"), **options,
        )  # fmt: skip
        return names, read_image(str(folder / "stuff" / "000001.png"), "L")[:, :, 0]

    def test_things_are_0_stuff_is_numbered_and_the_rest_is_ignored(self, folder):
        drawing = folder / "annotations" / "panoptic_val2017" / "000001.png"
        colours = np.array(Image.open(drawing))
        colours[47, 63] = 1, 2, 3  # of no segment
        Image.fromarray(colours).save(drawing)
        names, labels = self.write(folder)
        assert names == ["things", "sky"] and labels.dtype == np.uint8
        assert labels[15, 10] == labels[35, 50] == labels[2, 2] == 0  # ball, dog, a crowd of dogs
        assert labels[47, 63] == 255 and (labels == 1).sum() == labels.size - 1 - 200 - 200 - 16

    def test_labels_can_be_chosen(self, folder):
        names, labels = self.write(folder, label_of={187: 3})
        assert names == ["things", "", "", "sky"] and set(np.unique(labels)) == {0, 3}

    def test_a_segment_without_label_is_named(self, folder):
        with pytest.raises(ValueError, match=r"'000001\.png'.*category_id 187, which has no label"):
            self.write(folder, label_of={})

    def test_a_model_of_things_and_stuff_gets_both(self, folder):
        box = {"id": 1, "image_id": 1, "category_id": 37, "bbox": [5, 10, 20, 10], "iscrowd": 0}
        content = json.loads((folder / "annotations" / "panoptic_val2017.json").read_text())
        content.update(annotations=[box], categories=[{"id": 37, "name": "ball"}])
        instances = folder / "instances.json"
        instances.write_text(json.dumps(content))
        names, labels = self.write(folder)
        register_coco_panoptic_separated(
            "own", {"stuff_classes": names}, str(folder / "val2017"), "", "",
            str(folder / "stuff"), str(instances),
        )  # fmt: skip
        (record,) = DatasetCatalog.get("own_separated")
        mapper = DatasetMapper(is_train=True, augmentations=[], image_format="BGR")
        sample = mapper(record)
        assert (sample["sem_seg"].numpy() == labels).all()
        assert sample["instances"].gt_boxes.tensor.tolist() == [[5, 10, 25, 20]]
