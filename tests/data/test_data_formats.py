"""Cityscapes, LVIS and PASCAL VOC, and where the builtin datasets look for their files."""

import json
import uuid
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import (
    builtin,
    get_lvis_instances_meta,
    load_lvis_json,
    load_voc_instances,
    register_lvis_instances,
    register_pascal_voc,
)
from detectron2.data.datasets import cityscapes as city
from detectron2.data.datasets.builtin_meta import (
    CITYSCAPES_CATEGORIES,
    COCO_CATEGORIES,
    _get_builtin_metadata,
)
from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.structures import BoxMode

# -- PASCAL VOC


def voc_object(name="cat", box=(33, 31, 74, 60)):
    x0, y0, x1, y1 = box
    return (
        f"<object><name>{name}</name><difficult>1</difficult><bndbox><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
    )


@pytest.fixture
def voc(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("2007_000001\n")

    def write(body):
        size = "<size><width>75</width><height>99</height><depth>3</depth></size>"
        text = f"<annotation>{size}{body}</annotation>"
        (tmp_path / "Annotations" / "2007_000001.xml").write_text(text)
        return str(tmp_path)

    return write


def test_voc_boxes_count_from_one_and_include_the_last_pixel(voc):
    (record,) = load_voc_instances(voc(voc_object()), "val", ["dog", "cat"])
    assert record["annotations"] == [
        {"category_id": 1, "bbox": [32.0, 30.0, 74.0, 60.0], "bbox_mode": BoxMode.XYXY_ABS}
    ]
    assert (record["height"], record["width"], record["image_id"]) == (99, 75, "2007_000001")


def test_registering_voc(voc):
    name = f"voc_{uuid.uuid4().hex}"
    register_pascal_voc(name, voc(voc_object()), "val", 2012, ["cat"])
    assert MetadataCatalog.get(name).year == 2012
    assert len(DatasetCatalog.get(name)) == 1
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    "body, message",
    [
        (voc_object("bird"), "class 'bird'"),
        ("<object><name>cat</name></object>", "no xmin"),
        ("<broken", "cannot be read as a VOC annotation"),
    ],
)
def test_voc_faults_name_the_file(voc, body, message):
    with pytest.raises(ValueError, match=rf"2007_000001\.xml.*{message}|{message}"):
        load_voc_instances(voc(body), "val", ["cat"])


def test_a_missing_voc_list_is_named(voc):
    with pytest.raises(FileNotFoundError, match=r"Main/train\.txt"):
        load_voc_instances(voc(""), "train", ["cat"])


# -- LVIS


def lvis_content(**changes):
    return {
        "images": [{
            "id": 4, "height": 5, "width": 6, "coco_url": "http://host/val2017/000004.jpg",
            "neg_category_ids": [2], "not_exhaustive_category_ids": [],
        }],
        "annotations": [{
            "id": 1, "image_id": 4, "category_id": 3, "bbox": [0.0, 0, 1, 1], "area": 1,
            "segmentation": [[0.0, 0, 1, 0, 1, 1]], **changes,
        }],
        "categories": [
            {"id": i, "name": n, "synonyms": [n, "other"], "image_count": 10 * i}
            for i, n in ((2, "bat_(animal)"), (1, "bat"), (3, "cup"))
        ],
    }  # fmt: skip


@pytest.fixture
def lvis(tmp_path):
    def write(file="lvis.json", **changes):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(lvis_content(**changes)))
        return str(path)

    return write


def test_lvis_records(lvis):
    (record,) = load_lvis_json(lvis(), "coco/", None, extra_annotation_keys=["area"])
    assert record["file_name"] == "coco/val2017/000004.jpg"
    assert record["neg_category_ids"] == [2] and record["not_exhaustive_category_ids"] == []
    assert record["annotations"][0]["category_id"] == 2 and record["annotations"][0]["area"] == 1


def test_a_cocofied_lvis_maps_its_ids(lvis):
    name = f"lvis_{uuid.uuid4().hex}"
    register_lvis_instances(name, {"thing_dataset_id_to_contiguous_id": {3: 70}}, lvis(), "coco/")
    assert DatasetCatalog.get(name)[0]["annotations"][0]["category_id"] == 70
    assert MetadataCatalog.get(name).evaluator_type == "lvis"
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("segmentation", [[], {"size": [1, 1], "counts": "x"}, [[0, 0, 1, 1]]])
def test_lvis_segmentations_are_polygons(lvis, segmentation):
    with pytest.raises(ValueError, match="Annotation 1 in"):
        load_lvis_json(lvis(segmentation=segmentation), "")


def test_missing_and_repeating_lvis_entries(lvis, tmp_path):
    with pytest.raises(FileNotFoundError, match="LVIS datasets"):
        load_lvis_json(str(tmp_path / "no.json"), "")
    content = lvis_content()
    content["annotations"] *= 2
    (tmp_path / "twice.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotation id 1 repeats"):
        load_lvis_json(str(tmp_path / "twice.json"), "")
    content = lvis_content()
    content["annotations"][0]["image_id"] = 99
    (tmp_path / "lost.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Annotation 1 in .* belongs to image 99"):
        load_lvis_json(str(tmp_path / "lost.json"), "")


def test_quirk_old_lvis_names_end_in_the_name_of_2017(tmp_path):
    content = lvis_content()
    del content["images"][0]["coco_url"]
    content["images"][0]["file_name"] = "COCO_val2014_000000001268.jpg"
    (tmp_path / "old.json").write_text(json.dumps(content))
    (record,) = load_lvis_json(str(tmp_path / "old.json"), "coco")
    assert record["file_name"] == "coco/000000001268.jpg"


def test_lvis_categories_ship_with_the_package():
    meta = get_lvis_instances_meta("lvis_v1_val")
    assert len(meta["thing_classes"]) == len(meta["class_image_count"]) == 1203
    # Class names are first synonyms, which differ from the names where those would repeat.
    assert LVIS_CATEGORIES[161]["name"] == "bull" and meta["thing_classes"][161] == "horned_cow"
    assert meta["class_image_count"][1202] == {"id": 1203, "image_count": 81}
    by_frequency = Counter(category["frequency"] for category in LVIS_CATEGORIES)
    assert by_frequency == {"r": 337, "c": 461, "f": 405}  # as the dataset's paper counts
    old = get_lvis_instances_meta("lvis_v0.5_train")
    assert list(old) == ["thing_classes"] and len(set(old["thing_classes"])) == 1230


def test_lvis_versions():
    assert len(get_lvis_instances_meta("lvis_v0.5_val_cocofied")["thing_classes"]) == 80
    with pytest.raises(ValueError, match="'lvis_v9'"):
        get_lvis_instances_meta("lvis_v9")


# -- Cityscapes


def city_objects():
    def square(x0, y0, x1, y1):
        return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]

    return [
        {"label": "road", "polygon": square(0, 0, 39, 29)},
        {"label": "car", "polygon": square(5, 5, 15, 15)},
        {"label": "person", "polygon": square(10, 5, 20, 15)},  # hides half of the car
        {"label": "persongroup", "polygon": square(25, 5, 35, 15)},
        {"label": "car", "polygon": square(25, 18, 30, 25)},
        {"label": "truck", "polygon": square(30, 18, 35, 25), "deleted": 1},
        {"label": "sky", "polygon": square(24, 17, 31, 26)},  # hides all of the second car
    ]


@pytest.fixture
def cityscapes(tmp_path):
    images, labels = tmp_path / "leftImg8bit" / "bonn", tmp_path / "gtFine" / "bonn"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    stem = "bonn_000000_000019"
    Image.new("RGB", (40, 30)).save(images / f"{stem}_leftImg8bit.png")
    instances = np.full((30, 40), 7, dtype=np.uint16)
    instances[5:16, 5:11] = 26000
    instances[5:16, 11:21] = 24001
    instances[5:16, 25:36] = 24
    Image.fromarray(instances).save(labels / f"{stem}_gtFine_instanceIds.png")
    for kind in ("labelIds", "labelTrainIds"):
        Image.new("L", (40, 30)).save(labels / f"{stem}_gtFine_{kind}.png")
    content = {"imgHeight": 30, "imgWidth": 40, "objects": city_objects()}
    (labels / f"{stem}_gtFine_polygons.json").write_text(json.dumps(content))
    return tmp_path


def load(cityscapes, **options):
    (record,) = city.load_cityscapes_instances(
        str(cityscapes / "leftImg8bit"), str(cityscapes / "gtFine"), **options
    )
    return record


def test_what_a_nearer_object_hides_is_cut_off(cityscapes):
    record = load(cityscapes)
    assert record["image_id"] == "bonn_000000_000019_leftImg8bit.png"
    car, person, group = record["annotations"]  # road and sky are no instances
    assert [a["category_id"] for a in record["annotations"]] == [2, 0, 0]
    assert [a["iscrowd"] for a in record["annotations"]] == [0, 0, 1]
    # Polygons that are seen whole keep their corners.
    assert person["segmentation"] == [[10, 5, 20, 5, 20, 15, 10, 15]]
    assert person["bbox"] == (10, 5, 20, 15) and person["bbox_mode"] == BoxMode.XYXY_ABS
    assert group["segmentation"] == [[25, 5, 35, 5, 35, 15, 25, 15]]
    assert car["bbox"] == (5.5, 5.5, 9.5, 15.5)


def test_instance_maps_as_polygons_and_as_run_lengths(cityscapes):
    import hotcoco.mask

    polygons = load(cityscapes, from_json=False)["annotations"]
    lengths = load(cityscapes, from_json=False, to_polygons=False)["annotations"]
    assert [(a["category_id"], a["iscrowd"]) for a in lengths] == [(0, 1), (0, 0), (2, 0)]
    assert [a["category_id"] for a in polygons] == [0, 0, 2]
    car = lengths[2]
    assert hotcoco.mask.decode(car["segmentation"]).sum() == 11 * 6
    assert car["bbox"] == (5, 5, 11, 16)
    assert polygons[2]["bbox"] == (5.5, 5.5, 10.5, 15.5)


def test_polygons_cannot_become_run_lengths(cityscapes):
    with pytest.raises(ValueError, match="from_json=False"):
        load(cityscapes, to_polygons=False)


def test_cityscapes_label_maps(cityscapes):
    folders = str(cityscapes / "leftImg8bit"), str(cityscapes / "gtFine")
    (record,) = city.load_cityscapes_semantic(*folders)
    assert record["sem_seg_file_name"].endswith("_gtFine_labelTrainIds.png")
    assert (record["height"], record["width"]) == (30, 40)
    for file in (cityscapes / "gtFine" / "bonn").glob("*labelTrainIds*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="createTrainIdLabelImgs"):
        city.load_cityscapes_semantic(*folders)


def test_missing_cityscapes_files_are_named(cityscapes, tmp_path):
    with pytest.raises(FileNotFoundError, match="There are no images"):
        city.load_cityscapes_semantic(str(tmp_path / "nowhere"), str(tmp_path))
    for file in (cityscapes / "gtFine" / "bonn").glob("*.json"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="unpack gtFine"):
        load(cityscapes)


def test_what_a_folder_of_cityscapes_holds_is_logged(cityscapes, capsys):
    folders = [str(cityscapes / "leftImg8bit"), str(cityscapes / "gtFine")]
    city.main(folders)
    city.main([*folders, "--type", "semantic"])
    logged = capsys.readouterr().out
    assert "person: 2 instances" in logged and "1 images with label maps" in logged


def write_panoptic(cityscapes, image_id="bonn_000000_000019", category=26):
    (cityscapes / "pan").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30)).save(cityscapes / "pan" / "x_panoptic.png")
    segments = [{"id": 7, "category_id": 7}, {"id": 26000, "category_id": category}]
    annotation = {"image_id": image_id, "file_name": "x_panoptic.png", "segments_info": segments}
    (cityscapes / "pan.json").write_text(json.dumps({"annotations": [annotation]}))
    return (
        str(cityscapes / "leftImg8bit"),
        str(cityscapes / "pan"),
        str(cityscapes / "pan.json"),
        _get_builtin_metadata("cityscapes_panoptic"),
    )


def test_panoptic_cityscapes(cityscapes):
    (record,) = load_cityscapes_panoptic(*write_panoptic(cityscapes))
    assert record["image_id"] == "bonn_000000_000019"
    assert [s["category_id"] for s in record["segments_info"]] == [0, 13]
    assert record["sem_seg_file_name"].endswith(
        "gtFine/bonn/bonn_000000_000019_gtFine_labelTrainIds.png"
    )
    assert record["pan_seg_file_name"].endswith("x_panoptic.png")


def test_panoptic_cityscapes_faults(cityscapes):
    with pytest.raises(FileNotFoundError, match="There is no image 'other_leftImg8bit.png'"):
        load_cityscapes_panoptic(*write_panoptic(cityscapes, image_id="other"))
    with pytest.raises(KeyError, match="category_id 99"):
        load_cityscapes_panoptic(*write_panoptic(cityscapes, category=99))
    (cityscapes / "pan.json").unlink()
    with pytest.raises(FileNotFoundError, match="createPanopticImgs"):
        load_cityscapes_panoptic(str(cityscapes), "", str(cityscapes / "pan.json"), {})


# -- builtin datasets


def test_categories_have_the_keys_that_users_read():
    assert len(COCO_CATEGORIES) == 133 and len(CITYSCAPES_CATEGORIES) == 19
    assert set(COCO_CATEGORIES[0]) == {"name", "id", "isthing", "color"}
    assert set(CITYSCAPES_CATEGORIES[0]) == {"name", "id", "trainId", "isthing", "color"}
    with pytest.raises(KeyError, match="coco_person"):
        _get_builtin_metadata("nope")


def test_builtin_datasets_can_be_registered_below_another_root(tmp_path):
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    image = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 3}
    categories = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    content = {"images": [image], "annotations": [], "categories": categories}
    file = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(content))
    names = [n for n in DatasetCatalog.list() if "coco_20" in n]
    saved = {n: (DatasetCatalog[n], MetadataCatalog[n]) for n in names}
    for n in names:
        DatasetCatalog.remove(n)
        MetadataCatalog.remove(n)
    try:
        builtin.register_all_coco(str(tmp_path))
        assert DatasetCatalog.get("coco_2017_val")[0]["image_id"] == 1
        assert MetadataCatalog.get("coco_2017_val").json_file == str(file)
        with pytest.raises(AssertionError, match="already registered"):
            builtin.register_all_coco(str(tmp_path))
    finally:
        for n, (load_function, metadata) in saved.items():
            DatasetCatalog[n], MetadataCatalog[n] = load_function, metadata


def test_convention_lvis_v1_cocofied_is_known_but_not_listed(monkeypatch, tmp_path):
    name = "lvis_v1_train_cocofied"
    assert name in DatasetCatalog.all_names() and name not in DatasetCatalog.list()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    metadata = MetadataCatalog.get(name)
    assert len(metadata.thing_classes) == 80 and metadata.evaluator_type == "lvis"
    with pytest.raises(FileNotFoundError, match=r"lvis_v1_train_cocofied\.json"):
        DatasetCatalog.get(name)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove(name)
