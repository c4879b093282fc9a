import json
import logging
import os
import uuid

import numpy as np
import pytest
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import (
    convert_to_coco_json,
    load_coco_json,
    load_sem_seg,
    register_coco_instances,
    register_coco_panoptic,
    register_coco_panoptic_separated,
)
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic
from detectron2.structures import BoxMode

TRIANGLE = [1.0, 1, 9, 1, 9, 9]


def content(**changes):
    return {
        "images": [
            {"id": 2, "file_name": "b.jpg", "height": 10, "width": 20},
            {"id": 1, "file_name": "a.jpg", "height": 10, "width": 20},
        ],
        "annotations": [
            {
                "id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "area": 32.0,
                "bbox": [1.0, 1, 8, 8], "segmentation": [TRIANGLE], "keypoints": [3, 4, 2],
            },
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        **changes,
    }  # fmt: skip


def annotation(**changes):
    return [{**content()["annotations"][0], **changes}]


@pytest.fixture
def name():
    name = f"my_{uuid.uuid4().hex}"
    yield name
    for catalog in (DatasetCatalog, MetadataCatalog):
        for known in catalog.list():
            if known.startswith(name):
                catalog.remove(known)


@pytest.fixture
def write(tmp_path):
    def write(value, file="annotations.json"):
        path = tmp_path / file
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return str(path)

    return write


# -- loading


def test_records_of_a_file(write, name):
    first, second = load_coco_json(write(content()), "images", name)
    assert first == {
        "file_name": os.path.join("images", "a.jpg"), "height": 10, "width": 20, "image_id": 1,
        "annotations": [{
            "iscrowd": 0, "bbox": [1.0, 1, 8, 8], "category_id": 1, "keypoints": [3.5, 4.5, 2],
            "segmentation": [TRIANGLE], "bbox_mode": BoxMode.XYWH_ABS,
        }],
    }  # fmt: skip
    assert second["image_id"] == 2 and second["annotations"] == []
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_without_a_name_ids_stay_and_extra_keys_are_kept(write):
    record = load_coco_json(write(content()), "", None, extra_annotation_keys=["area"])[0]
    assert record["annotations"][0]["category_id"] == 7
    assert record["annotations"][0]["area"] == 32.0


def test_uncompressed_run_lengths_are_compressed(write):
    import hotcoco.mask

    counts = {"size": [10, 20], "counts": [5, 3, 192]}
    file = write(content(annotations=annotation(segmentation=counts, iscrowd=1)))
    rle = load_coco_json(file, "")[0]["annotations"][0]["segmentation"]
    assert hotcoco.mask.decode(rle).sum() == 3


@pytest.mark.parametrize(
    "segmentation, kept",
    [
        ([TRIANGLE, [1.0, 2, 3, 4]], 1),
        ([TRIANGLE, [1.0, 2, 3, 4, 5, 6, 7]], 1),
        ([[1.0, 2, 3, 4]], None),
        ([], 0),
    ],
)
def test_convention_polygons_that_cover_nothing_are_left_out(write, caplog, segmentation, kept):
    file = write(content(annotations=annotation(segmentation=segmentation)))
    annotations = load_coco_json(file, "")[0]["annotations"]
    if kept is None:
        assert annotations == [] and "1 annotations" in caplog.text
    else:
        assert len(annotations[0].get("segmentation", [])) == kept


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"annotations": annotation(bbox=[])}, ValueError, "empty 'bbox'"),
        ({"annotations": annotation(category_id=9)}, KeyError, "category_id 9.*3, 7"),
        ({"annotations": annotation(ignore=1)}, ValueError, "use 'iscrowd'"),
        ({"annotations": annotation() * 2}, AssertionError, r"Annotation ids repeat.*\[1\]"),
        ({"images": content()["images"] * 2}, AssertionError, "Image ids repeat"),
        ({"categories": content()["categories"] * 2}, ValueError, "Category ids repeat"),
    ],
)
def test_contradictions_are_explained(write, name, changes, error, message):
    with pytest.raises(error, match=message):
        load_coco_json(write(content(**changes)), "", name)


def test_quirk_ids_may_repeat_in_minival(write):
    file = write(content(annotations=annotation() * 2), "instances_minival2014.json")
    assert len(load_coco_json(file, "")[0]["annotations"]) == 2


def test_annotations_of_images_that_are_not_listed_are_left_out(write, caplog):
    file = write(content(annotations=annotation(image_id=99)))
    assert all(r["annotations"] == [] for r in load_coco_json(file, ""))
    assert "1 annotations" in caplog.text


def test_a_file_of_images_alone_has_no_annotations(write):
    file = write({"images": content()["images"], "categories": []})
    assert [r["annotations"] for r in load_coco_json(file, "")] == [[], []]


@pytest.mark.parametrize(
    "text, message",
    [("{", "is no JSON file"), ("[1]", "not in COCO's format"), ('{"x": 1}', "it holds x")],
)
def test_other_files_are_refused(write, text, message):
    with pytest.raises(ValueError, match=message):
        load_coco_json(write(text), "")


def test_a_missing_file_says_what_to_check(tmp_path):
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS"):
        load_coco_json(str(tmp_path / "no.json"), "")


def test_ids_with_gaps_are_mentioned(write, name, caplog):
    with caplog.at_level(logging.WARNING):
        load_coco_json(write(content()), "", name)
    assert "thing_dataset_id_to_contiguous_id" in caplog.text


# -- registering


def test_registering(write, name):
    file = write(content())
    register_coco_instances(name, {"extra": 3}, file, "images")
    metadata = MetadataCatalog.get(name)
    assert (metadata.extra, metadata.json_file, metadata.image_root) == (3, file, "images")
    assert metadata.evaluator_type == "coco"
    assert len(DatasetCatalog.get(name)) == 2
    assert DatasetCatalog.get(name) == DatasetCatalog.get(name)
    with pytest.raises(AssertionError, match="already registered"):
        register_coco_instances(name, {}, file, "images")


def test_the_file_may_come_after_the_registration(name, tmp_path):
    register_coco_instances(name, {}, str(tmp_path / "later.json"), "images")
    (tmp_path / "later.json").write_text(json.dumps(content()))
    assert len(DatasetCatalog.get(name)) == 2


@pytest.mark.parametrize("arguments", [(3, {}, "a", "b"), ("x", {}, None, "b"), ("x", {}, "a", 3)])
def test_wrong_types_are_refused(arguments):
    with pytest.raises(TypeError, match="must be a"):
        register_coco_instances(*arguments)


# -- converting


def convertible():
    import hotcoco.mask

    mask = np.zeros((40, 50), dtype=np.uint8, order="F")
    mask[5:20, 7:30] = 1
    return [
        {
            "file_name": "a.png", "image_id": 5, "height": 40, "width": 50,
            "annotations": [
                {"bbox": [1.0, 2, 30, 33.5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1,
                 "segmentation": [[1.0, 2, 30, 2, 30, 33]], "keypoints": [3.5, 4.5, 2]},
                {"bbox": [7.0, 5, 23, 15], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0,
                 "iscrowd": 1, "segmentation": hotcoco.mask.encode(mask)},
                {"bbox": [20.0, 20, 10, 8, 30], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0},
                {"bbox": [0.0, 0, 4, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
            ],
        },
        {"file_name": "b.png", "height": 10, "width": 10},
    ]  # fmt: skip


@pytest.fixture
def converted(name):
    DatasetCatalog.register(name, convertible)
    MetadataCatalog.get(name).set(
        thing_classes=["x", "y"], thing_dataset_id_to_contiguous_id={11: 0, 12: 1}
    )
    return name


def test_a_dataset_becomes_a_coco_dictionary(converted):
    result = convert_to_coco_dict(converted)
    polygon, crowd, rotated, box = result["annotations"]
    assert [c["id"] for c in result["categories"]] == [11, 12]
    assert polygon["bbox"] == [1, 2, 29, 31.5] and polygon["area"] == 449.5
    assert polygon["keypoints"] == [3, 4, 2] and polygon["num_keypoints"] == 1
    assert crowd["area"] == 345 and crowd["iscrowd"] == 1
    assert isinstance(crowd["segmentation"]["counts"], str)
    assert rotated["bbox"] == [20, 20, 10, 8, 30] and rotated["area"] == 80
    assert box["area"] == 20 and [a["id"] for a in result["annotations"]] == [1, 2, 3, 4]
    assert [i["id"] for i in result["images"]] == [5, 1]


def test_written_and_loaded_again(converted, tmp_path):
    file = tmp_path / "deep" / "out.json"
    convert_to_coco_json(converted, str(file))
    loaded = load_coco_json(str(file), "")[1]["annotations"]
    assert loaded[0]["segmentation"] == [[1.0, 2, 30, 2, 30, 33]]
    assert loaded[0]["keypoints"] == [3.5, 4.5, 2]
    assert os.listdir(file.parent) == ["out.json"]  # no temporary file is left


def test_a_file_is_kept_while_it_holds_the_dataset(converted, tmp_path, caplog):
    file = tmp_path / "out.json"
    convert_to_coco_json(converted, str(file))
    os.utime(file, (1, 1))
    convert_to_coco_json(converted, str(file))
    assert file.stat().st_mtime == 1
    convert_to_coco_json(converted, str(file), allow_cached=False)
    assert file.stat().st_mtime > 1
    assert "writing it anew" not in caplog.text


@pytest.mark.parametrize("content", ["{}", "no JSON", "[]"])
def test_a_file_that_holds_something_else_is_written_anew(converted, tmp_path, caplog, content):
    file = tmp_path / "out.json"
    file.write_text(content)
    convert_to_coco_json(converted, str(file))
    assert len(json.loads(file.read_text())["annotations"]) == 4
    assert "writing it anew" in caplog.text


def test_a_file_of_a_dataset_that_changed_is_written_anew(converted, tmp_path):
    file = tmp_path / "out.json"
    convert_to_coco_json(converted, str(file))
    changed = convertible()
    changed[0]["annotations"][0]["bbox"][0] += 1
    DatasetCatalog.remove(converted)
    DatasetCatalog.register(converted, lambda: changed)
    convert_to_coco_json(converted, str(file))
    assert json.loads(file.read_text())["annotations"][0]["bbox"][0] == 2


def test_rotated_boxes_come_back_rotated(converted, tmp_path):
    convert_to_coco_json(converted, str(tmp_path / "out.json"))
    rotated = load_coco_json(str(tmp_path / "out.json"), "")[1]["annotations"][2]
    assert rotated["bbox"] == [20, 20, 10, 8, 30]
    assert rotated["bbox_mode"] == BoxMode.XYWHA_ABS


def test_a_failed_conversion_leaves_no_file(name, tmp_path):
    DatasetCatalog.register(name, lambda: [{"file_name": "a", "height": 1, "width": "?"}])
    MetadataCatalog.get(name).set(thing_classes=["x"])
    with pytest.raises(ValueError):
        convert_to_coco_json(name, str(tmp_path / "out.json"))
    assert os.listdir(tmp_path) == []


def test_a_mask_has_no_place_in_a_coco_file(name):
    bad = {"bbox": [0, 0, 1, 1], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    record = {"file_name": "a", "height": 1, "width": 1}
    DatasetCatalog.register(
        name, lambda: [{**record, "annotations": [{**bad, "segmentation": "?"}]}]
    )
    MetadataCatalog.get(name).set(thing_classes=["x"])
    with pytest.raises(TypeError):
        convert_to_coco_dict(name)


# -- semantic and panoptic segmentation


@pytest.fixture
def folders(tmp_path):
    for folder, extension in (("images", "jpg"), ("labels", "png"), ("panoptic", "png")):
        (tmp_path / folder).mkdir()
        for stem in "ab":
            Image.new("L", (4, 4)).save(tmp_path / folder / f"{stem}.{extension}")
    return tmp_path


def test_label_maps_are_matched_by_name(folders):
    records = load_sem_seg(str(folders / "labels"), str(folders / "images"))
    assert [sorted(r) for r in records] == [["file_name", "sem_seg_file_name"]] * 2
    assert records[0]["sem_seg_file_name"].endswith("a.png")


def test_an_image_without_label_map_is_left_out(folders, caplog):
    (folders / "labels" / "b.png").unlink()
    assert len(load_sem_seg(str(folders / "labels"), str(folders / "images"))) == 1
    assert "the 1 names that both have" in caplog.text


def test_folders_without_label_maps_are_errors(folders):
    with pytest.raises(AssertionError, match=r"no label map '\*\.bmp'"):
        load_sem_seg(str(folders / "labels"), str(folders / "images"), "bmp")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_sem_seg(str(folders / "nowhere"), str(folders / "images"))


PANOPTIC_METADATA = {
    "thing_dataset_id_to_contiguous_id": {1: 0},
    "stuff_dataset_id_to_contiguous_id": {92: 1},
}


def panoptic_content(category=92):
    segments = [{"id": 9, "category_id": 1, "iscrowd": 0}, {"id": 8, "category_id": category}]
    return {
        "annotations": [{"image_id": "7", "file_name": "a.png", "segments_info": segments}],
        "images": [],
    }


def register_panoptic(name, folders, write, category=92):
    register_coco_panoptic(
        name,
        PANOPTIC_METADATA,
        str(folders / "images"),
        str(folders / "panoptic"),
        write(panoptic_content(category)),
    )


def test_panoptic_records(name, folders, write):
    register_panoptic(name, folders, write)
    (record,) = DatasetCatalog.get(name)
    assert record["image_id"] == 7 and record["file_name"].endswith("a.jpg")
    assert [(s["category_id"], s["isthing"]) for s in record["segments_info"]] == [
        (0, True), (1, False),
    ]  # fmt: skip
    assert MetadataCatalog.get(name).evaluator_type == "coco_panoptic_seg"
    # Loading twice gives the same: the metadata and the file are not changed.
    assert DatasetCatalog.get(name)[0] == record


def test_panoptic_faults_are_explained(name, folders, write):
    register_panoptic(name, folders, write, category=5)
    with pytest.raises(KeyError, match="category_id 5"):
        DatasetCatalog.get(name)
    (folders / "panoptic" / "a.png").unlink()
    write(panoptic_content())
    with pytest.raises(FileNotFoundError, match=r"panoptic/a\.png"):
        DatasetCatalog.get(name)


def test_instances_and_stuff_apart(name, folders, write):
    register_coco_panoptic_separated(
        name,
        {"stuff_classes": ["things", "sky"]},
        str(folders / "images"),
        str(folders / "panoptic"),
        "panoptic.json",
        str(folders / "labels"),
        write(content()),
    )
    records = DatasetCatalog.get(name + "_separated")
    assert [r["image_id"] for r in records] == [1, 2]
    assert all("sem_seg_file_name" in r and "annotations" in r for r in records)
    stuff = DatasetCatalog.get(name + "_stuffonly")
    assert sorted(stuff[0]) == ["file_name", "sem_seg_file_name"]
    assert MetadataCatalog.get(name + "_stuffonly").evaluator_type == "sem_seg"


def test_instances_without_label_maps_are_errors():
    instances = [{"file_name": "a"}]
    with pytest.raises(ValueError, match="no semantic segmentations"):
        merge_to_panoptic(instances, [])
    with pytest.raises(ValueError, match="'a' has instances but"):
        merge_to_panoptic(instances, [{"file_name": "b"}])
