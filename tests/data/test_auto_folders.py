"""Folders as other programs write them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from folder_datasets import comparable, draw, read
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.auto import (
    open_dataset,
    recognize,
    register_folder,
    with_classes,
)
from detectron2.data.datasets.convert import convert_dataset
from detectron2.structures import BoxMode

pytestmark = pytest.mark.usefixtures("catalogs_as_before")

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]


def annotations(folder, split="all", image=0):
    return recognize(folder).splits[split]()[image]["annotations"]


def boxes(folder, split="all", image=0):
    return [list(map(float, a["bbox"])) for a in annotations(folder, split, image)]


# -- COCO


def coco_content(name="a.jpg", categories=((1, "cat"), (5, "dog")), **changes):
    return {
        "images": [{"id": 7, "file_name": name, "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": categories[-1][0], "bbox": [10, 10, 20, 20],
             "iscrowd": 0, "area": 400, "segmentation": [SQUARE], **changes}
        ],
        "categories": [{"id": i, "name": n} for i, n in categories],
    }  # fmt: skip


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def coco(tmp_path):
    """The layout of COCO itself, with the files that hold no boxes."""
    for split in ("train", "val"):
        draw(tmp_path / f"{split}2017" / "a.jpg")
        write_json(tmp_path / "annotations" / f"instances_{split}2017.json", coco_content())
        captions = coco_content()
        captions["annotations"] = [{"id": 1, "image_id": 7, "caption": "a dog"}]
        write_json(tmp_path / "annotations" / f"captions_{split}2017.json", captions)
        keypoints = coco_content(keypoints=[1, 2, 2], num_keypoints=1)
        write_json(tmp_path / "annotations" / f"person_keypoints_{split}2017.json", keypoints)
    return tmp_path


def test_coco_in_its_own_layout(coco):
    dataset = register_folder(coco, "mine")
    assert dataset.names == {"train": "mine_train", "val": "mine_val"}
    (record,) = DatasetCatalog.get("mine_val")
    assert record["file_name"] == str(coco / "val2017" / "a.jpg") and record["image_id"] == 7
    assert record["annotations"][0]["category_id"] == 1
    metadata = MetadataCatalog.get("mine_val")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.json_file == str(coco / "annotations" / "instances_val2017.json")
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 5: 1}


def test_coco_with_a_file_in_each_split_folder(tmp_path):
    for split in ("train", "valid"):
        draw(tmp_path / split / "a.jpg")
        write_json(tmp_path / split / "_annotations.coco.json", coco_content())
    assert list(recognize(tmp_path).splits) == ["train", "val"]


def test_coco_splits_with_different_categories_go_by_name(tmp_path):
    draw(tmp_path / "a.jpg")
    write_json(tmp_path / "train.json", coco_content())
    write_json(tmp_path / "val.json", coco_content(categories=((1, "dog"), (2, "cow"))))
    found = recognize(tmp_path)
    assert found.classes == ["cat", "dog", "cow"]
    assert found.splits["val"]()[0]["annotations"][0]["category_id"] == 2
    assert "json_file" not in found.split_metadata["val"]
    assert "different categories" in found.notes[0]


def test_two_coco_files_of_one_split_are_a_question(tmp_path):
    draw(tmp_path / "a.jpg")
    write_json(tmp_path / "first.json", coco_content())
    write_json(tmp_path / "second.json", coco_content())
    with pytest.raises(ValueError, match="Name the one that is meant"):
        recognize(tmp_path)
    assert open_dataset(tmp_path / "first.json").names == {"all": "first_all"}


def test_rotated_coco(tmp_path):
    draw(tmp_path / "a.jpg")
    content = coco_content(bbox=[20, 20, 10, 5, 30])
    del content["annotations"][0]["segmentation"]
    write_json(tmp_path / "train.json", content)
    found = recognize(tmp_path)
    assert found.rotated
    assert found.splits["train"]()[0]["annotations"][0]["bbox_mode"] == BoxMode.XYWHA_ABS
    register_folder(tmp_path, "turned")
    assert MetadataCatalog.get("turned_train").evaluator_type == "coco_rotated"


# -- YOLO


def yolo(tmp_path, lines, described=None, image="images/train/a.jpg", width=64):
    path = draw(tmp_path / image, width)
    label = Path(str(path).replace("images", "labels")).with_suffix(".txt")
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("\n".join(lines) + "\n")
    if described is not None:
        content = {"train": "images/train", "names": {0: "cat", 1: "dog"}, **described}
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def test_yolo_boxes(tmp_path):
    folder = yolo(tmp_path, ["1 0.5 0.5 0.25 0.5", "", "0 0.5 0.5 1 1 0.9"], {})
    found = recognize(folder)
    assert found.format == "YOLO boxes" and found.classes == ["cat", "dog"]
    assert boxes(folder, "train") == [[24, 12, 40, 36], [0, 0, 64, 48]]


@pytest.mark.parametrize(
    "described",
    [
        {"names": ["cat", "dog"]},
        {"train": "../images/train"},
        {"path": "/somewhere/else"},
        {"path": "."},
        {"train": ["images/train"], "val": ""},
        {"train": "list.txt"},
    ],
)
def test_ways_to_write_data_yaml(tmp_path, described):
    folder = yolo(tmp_path, ["1 0.5 0.5 0.25 0.5"], described)
    (tmp_path / "list.txt").write_text("./images/train/a.jpg\n")
    assert boxes(folder, "train") == [[24, 12, 40, 36]]


def test_yolo_without_data_yaml(tmp_path):
    yolo(tmp_path, ["2 0.5 0.5 0.25 0.5"])
    draw(tmp_path / "images" / "val" / "b.jpg")
    found = recognize(tmp_path)
    assert found.classes == ["class 0", "class 1", "class 2"]
    assert list(found.splits) == ["train", "val"]
    assert found.splits["val"]()[0]["annotations"] == []
    assert "1 images have no label file and count as images without objects." in found.notes
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert recognize(tmp_path).classes == ["a", "b", "c"]


def test_yolo_labels_beside_the_images(tmp_path):
    draw(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    assert boxes(tmp_path) == [[24, 12, 40, 36]]


def test_yolo_segments_may_stand_among_boxes(tmp_path):
    folder = yolo(tmp_path, ["0 0.25 0.25 0.5 0.25 0.5 0.5", "1 0.5 0.5 0.25 0.5"], {})
    first, second = annotations(folder, "train")
    assert first["segmentation"] == [[16, 12, 32, 12, 32, 24]] and first["bbox"] == [16, 12, 32, 24]
    assert "segmentation" not in second


def test_four_corners_are_oriented_boxes_if_they_are_rectangles(tmp_path):
    # A square turned by 45 degrees on an image twice as wide as high.
    folder = yolo(tmp_path, ["0 0.5 0.25 0.625 0.5 0.5 0.75 0.375 0.5"], {}, width=96)
    found = recognize(folder)
    assert found.format == "YOLO oriented boxes" and found.rotated
    (annotation,) = annotations(folder, "train")
    side = 12 * 2**0.5
    assert annotation["bbox"] == pytest.approx([48, 24, side, side, -45], abs=1e-6)
    folder = yolo(tmp_path, ["0 0.5 0.25 0.625 0.5 0.5 0.75 0.45 0.3"], {}, width=96)
    assert recognize(folder).format == "YOLO segments"


def test_yolo_poses(tmp_path):
    folder = yolo(
        tmp_path,
        ["0 0.5 0.5 0.25 0.5 0.25 0.5 0 0"],
        {"kpt_shape": [2, 2], "flip_idx": [1, 0]},
    )
    (annotation,) = annotations(folder, "train")
    assert annotation["keypoints"] == [16, 24, 2, 0, 0, 0]
    assert recognize(folder).metadata == {
        "keypoint_names": ["keypoint 0", "keypoint 1"],
        "keypoint_flip_map": [("keypoint 0", "keypoint 1")],
    }


@pytest.mark.parametrize(
    "line, described, sentence",
    [
        ("7 0.5 0.5 0.25 0.5", {}, "Line 1 of .* has class 7, but there are 2 classes"),
        ("0.5 0.5 0.5 0.25 0.5", {}, "class 0.5"),
        ("0 0.5 0.5 x 0.5", {}, "A value of Line 1 of .* is 'x'"),
        ("0 0.5 0.5 nan 0.5", {}, "is 'nan'"),
        ("0 0.5 0.5 0.25", {}, "3 coordinates"),
        ("0 0.5 0.5 0.25 0.5 0.1", {"kpt_shape": [2, 3]}, "are 11"),
        ("0 0.5 0.5 0.25 0.5", {"kpt_shape": 5}, "where a list is due"),
        ("0 0.5 0.5 0.25 0.5", {"names": {1: "a"}}, "number the classes 0, 1"),
        ("0 0.5 0.5 0.25 0.5", {"train": "nowhere"}, "'nowhere', which is neither"),
    ],
)
def test_mistakes_in_yolo(tmp_path, line, described, sentence):
    with pytest.raises(ValueError, match=sentence):
        recognize(yolo(tmp_path, [line], described))


# -- Pascal VOC


def voc_xml(body, name="a.jpg"):
    return f"<annotation><filename>{name}</filename>{body}</annotation>"


OBJECT = (
    "<object><name>cat</name><bndbox><xmin>11</xmin><ymin>11</ymin><xmax>30</xmax><ymax>30.5</ymax>"
    "</bndbox></object>"
)


def test_voc_in_its_own_layout(tmp_path):
    for name in ("a", "b", "c"):
        draw(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(voc_xml(OBJECT, f"{name}.jpg"))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c  1\n")
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    splits, found = read(tmp_path)
    assert [len(records) for records in splits.values()] == [2, 1]
    assert found.classes == ["cat"]
    assert boxes(tmp_path, "val") == [[10, 10, 30, 30.5]]
    (lists / "val.txt").write_text("gone\n")
    with pytest.raises(ValueError, match="ImageSets lists it"):
        recognize(tmp_path)


def test_xml_beside_the_images(tmp_path):
    draw(tmp_path / "train" / "a.jpg")
    turned = "<robndbox><cx>20</cx><cy>20</cy><w>10</w><h>4</h><angle>0.5</angle></robndbox>"
    body = OBJECT + f"<object><name>ant</name>{turned}</object>"
    (tmp_path / "train" / "a.xml").write_text(voc_xml(body, "C:\\photos\\a.jpg"))
    found = recognize(tmp_path)
    assert found.classes == ["ant", "cat"] and list(found.splits) == ["train"]
    _, second = annotations(tmp_path, "train")
    assert second["bbox"] == pytest.approx([20, 20, 10, 4, -28.6479], abs=1e-3)


@pytest.mark.parametrize(
    "body, sentence",
    [
        ("<object><name>cat</name></object>", "object 1 of .* has no <bndbox>"),
        ("<object><bndbox/></object>", "has no <name>"),
        ("<object><name>cat</name><bndbox/></object>", "has no <xmin>"),
        (OBJECT.replace(">11<", ">eleven<"), "'eleven'"),
    ],
)
def test_mistakes_in_voc(tmp_path, body, sentence):
    draw(tmp_path / "a.jpg")
    (tmp_path / "a.xml").write_text(voc_xml(body))
    with pytest.raises(ValueError, match=sentence):
        recognize(tmp_path)


# -- LabelMe


def labelme(tmp_path, *shapes, **changes):
    draw(tmp_path / "a.jpg")
    rows = [{"label": "cat", "points": p, "shape_type": kind, **more} for kind, p, more in shapes]
    content = {"imagePath": "a.jpg", "imageData": None, "shapes": rows, **changes}
    write_json(tmp_path / "a.json", content)
    return tmp_path


def test_shapes_of_labelme(tmp_path):
    triangle = [[10, 10], [20, 10], [20, 20]]
    picture = io.BytesIO()
    Image.fromarray(np.array([[1, 0], [1, 1]], dtype=bool)).save(picture, format="PNG")
    mask = base64.b64encode(picture.getvalue()).decode()
    folder = labelme(
        tmp_path,
        ("polygon", triangle, {"group_id": 3}),
        ("rectangle", [[30, 20], [5, 6]], {}),
        ("circle", [[20, 20], [25, 20]], {"label": "dog"}),
        ("polygon", [[30, 30], [40, 30], [40, 40]], {"group_id": 3}),
        ("mask", [[3, 4], [4, 5]], {"mask": mask}),
        ("point", [[1, 1]], {}),
    )
    found = recognize(folder)
    assert found.format == "LabelMe" and found.classes == ["cat", "dog"]
    assert found.notes == ["1 shapes are points or lines, which cover nothing, and are left out."]
    of_box, of_mask, of_parts, of_circle = annotations(folder)
    assert of_box["bbox"] == [5, 6, 30, 20] and "segmentation" not in of_box
    assert of_mask["bbox"] == [3, 4, 5, 6]
    from hotcoco import mask as coco_mask

    decoded = coco_mask.decode(of_mask["segmentation"])
    assert np.argwhere(decoded).tolist() == [[4, 3], [5, 3], [5, 4]]
    assert of_parts["bbox"] == [10, 10, 40, 40] and len(of_parts["segmentation"]) == 2
    assert of_circle["bbox"] == [15, 15, 25, 25] and of_circle["category_id"] == 1


@pytest.mark.parametrize(
    "shape, sentence",
    [
        (("polygon", [[1, 2], [3]], {}), "has 1 numbers; a point has two"),
        (("polygon", "no", {}), "where a list is due"),
        (("rectangle", [[1, 2]], {}), "rectangle of 1 points"),
        (("hexagon", [[1, 2]], {}), "unknown shape_type 'hexagon'"),
        (("mask", [[1, 2], [3, 4]], {"mask": "%%"}), "cannot be decoded"),
        (("polygon", [[1, 2], [3, None], [4, 4]], {}), "None, which is no coordinate"),
    ],
)
def test_mistakes_in_labelme(tmp_path, shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        recognize(labelme(tmp_path, shape))


# -- VIA


def via_regions(as_list, attributes):
    shapes = [
        {"name": "polygon", "all_points_x": [10, 30, 30], "all_points_y": [10, 10, 30]},
        {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 11},
        {"name": "circle", "cx": 20, "cy": 20, "r": 5},
        {"name": "ellipse", "cx": 20, "cy": 20, "rx": 8, "ry": 4, "theta": 0},
        {"name": "point", "cx": 1, "cy": 1},
    ]
    regions = [{"shape_attributes": s, "region_attributes": dict(attributes)} for s in shapes]
    return regions if as_list else {str(i): region for i, region in enumerate(regions)}


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("project", [True, False])
def test_via_exports(tmp_path, as_list, project):
    draw(tmp_path / "train" / "a.jpg")
    entry = {"filename": "a.jpg", "size": 9, "regions": via_regions(as_list, {"type": "cat"})}
    content = {"a.jpg9": entry}
    write_json(
        tmp_path / "train" / "via.json", {"_via_img_metadata": content} if project else content
    )
    found = recognize(tmp_path)
    assert found.format == "VIA" and found.classes == ["cat"]
    assert boxes(tmp_path, "train") == [
        [10, 10, 30, 30], [1, 2, 11, 13], [15, 15, 25, 25], [12, 16, 28, 24]
    ]  # fmt: skip
    assert all(a["segmentation"] for a in annotations(tmp_path, "train"))


def test_regions_without_class_are_named_after_the_folder(tmp_path):
    draw(tmp_path / "balloon" / "a.jpg")
    regions = via_regions(True, {})
    regions[0]["region_attributes"] = {"comment": "", "name": "kite"}
    content = {"a.jpg9": {"filename": "a.jpg", "regions": regions}}
    write_json(tmp_path / "balloon" / "via.json", content)
    found = recognize(tmp_path / "balloon")
    assert found.classes == ["balloon", "kite"]
    assert "3 regions have no class and count as 'balloon'." in found.notes


def test_via_csv(tmp_path):
    draw(tmp_path / "a.jpg")
    draw(tmp_path / "b.jpg")
    shape = json.dumps({"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4})
    quoted, name = shape.replace('"', '""'), '{""class"":""cat""}'
    (tmp_path / "via.csv").write_text(
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,"
        f'region_attributes\na.jpg,1,"{{}}",1,0,"{quoted}","{name}"\nb.jpg,1,"{{}}",0,0,"{{}}",'
        '"{}"\n'
    )
    assert recognize(tmp_path).format == "VIA"
    assert boxes(tmp_path) == [[1, 2, 4, 6]] and boxes(tmp_path, image=1) == []


# -- CSV


@pytest.mark.parametrize(
    "table",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,64,48,cat,10,10,30,20\n",
        "image_id,bbox,label\na,\"[10, 10, 20, 10]\",cat\n",
        "img/a.jpg,10,10,30,20,cat\n",
        "ImageID,LabelName,XMin,XMax,YMin,YMax\na,cat,0.15625,0.46875,0.20833333333,0.416666667\n",
        "path;x;y;w;h;name\na.jpg;10;10;20;10;cat\n",
    ],
)  # fmt: skip
def test_tables_of_boxes(tmp_path, table):
    draw(tmp_path / "img" / "a.jpg")
    draw(tmp_path / "img" / "unlabelled.jpg")
    (tmp_path / "boxes.csv").write_text(table)
    splits, found = read(tmp_path)
    assert found.format == "CSV" and found.classes == ["cat"]
    assert len(splits["all"]) == 1
    assert boxes(tmp_path)[0] == pytest.approx([10, 10, 30, 20], abs=1e-5)


def test_tables_of_splits_and_of_empty_images(tmp_path):
    draw(tmp_path / "a.jpg")
    draw(tmp_path / "b.jpg")
    (tmp_path / "boxes.csv").write_text(
        "image,label,x1,y1,x2,y2,split\na.jpg,cat,1,2,3,4,train\na.jpg,cat,1,2,3,4,train\n"
        "b.jpg,,,,,,valid\n"
    )
    found = recognize(tmp_path)
    assert list(found.splits) == ["train", "val"]
    assert len(annotations(tmp_path, "train")) == 2 and annotations(tmp_path, "val") == []


@pytest.mark.parametrize(
    "row, sentence",
    [
        ("a.jpg,cat,1,2,3", "only 5 columns in line 2"),
        (",cat,1,2,3,4", "no image in line 2"),
        ("a.jpg,cat,1,2,inf,4", "'inf'"),
    ],
)
def test_mistakes_in_tables(tmp_path, row, sentence):
    draw(tmp_path / "a.jpg")
    (tmp_path / "boxes.csv").write_text(f"image,label,x1,y1,x2,y2\n{row}\n")
    with pytest.raises(ValueError, match=sentence):
        recognize(tmp_path)


# -- all of them


def test_what_is_looked_for_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        recognize(tmp_path / "nothing")
    draw(tmp_path / "a.jpg")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError) as error:
        recognize(tmp_path)
    for part in ("1 images among 2 files", "broken.json' is no JSON", "COCO:", "YOLO:", "VIA:",
                 "LabelMe:", "Pascal VOC:", "CSV:"):  # fmt: skip
        assert part in str(error.value)


def test_unreadable_images_are_left_out_and_named(tmp_path):
    folder = yolo(tmp_path, ["1 0.5 0.5 0.25 0.5"], {})
    (tmp_path / "images" / "train" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    found = recognize(folder)
    assert "1 images cannot be read and are left out: broken.jpg." in found.notes
    assert len(found.splits["train"]()) == 1


def test_sizes_are_those_of_the_upright_image(tmp_path):
    folder = yolo(tmp_path, ["0 0.25 0.5 0.5 1"], {})
    path = tmp_path / "images" / "train" / "a.jpg"
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    (record,) = recognize(folder).splits["train"]()
    assert (record["width"], record["height"]) == (48, 64)
    assert record["annotations"][0]["bbox"] == [0, 0, 24, 64]


def test_registering_again_replaces_and_names_of_others_are_kept(tmp_path):
    yolo(tmp_path / "one" / "photos", ["0 0.5 0.5 0.25 0.5"], {})
    yolo(tmp_path / "two" / "photos", ["0 0.5 0.5 0.25 0.5"], {"names": ["ant"]})
    first = register_folder(tmp_path / "one" / "photos")
    assert register_folder(tmp_path / "one" / "photos").names == first.names
    second = register_folder(tmp_path / "two" / "photos")
    assert second.names["train"] == first.names["train"] + "_2"
    assert MetadataCatalog.get(second.train).thing_classes == ["ant"]
    assert open_dataset(first.train).train == first.train
    builtin = register_folder(tmp_path / "one" / "photos", "coco_2017")
    assert builtin.names == {"train": "coco_2017_train_2"}


def test_splits_to_train_and_evaluate_on(coco, tmp_path):
    dataset = register_folder(coco, "splits")
    assert (dataset.train, dataset.val) == ("splits_train", "splits_val")
    dataset = open_dataset(coco / "annotations" / "instances_val2017.json", coco / "val2017")
    assert dataset.val is None and dataset.train == "instances_val2017_all"
    with pytest.raises(FileNotFoundError, match="neither a registered dataset nor"):
        open_dataset("nothing")
    with pytest.raises(FileNotFoundError, match="The image folder"):
        open_dataset(coco / "annotations" / "instances_val2017.json", "nothing")


def test_classes_in_another_order(coco):
    found = recognize(coco)
    turned = with_classes(found, ["dog", "cat"])
    assert turned.splits["val"]()[0]["annotations"][0]["category_id"] == 0
    ids = turned.split_metadata["val"]["thing_dataset_id_to_contiguous_id"]
    assert ids == {1: 1, 5: 0} and "json_file" in turned.split_metadata["val"]
    more = with_classes(found, ["cow", "cat", "dog"])
    assert "json_file" not in more.split_metadata["val"]
    with pytest.raises(ValueError, match="not among those asked for: cat"):
        with_classes(found, ["dog"])


def test_every_format_is_converted_and_reads_the_same(tmp_path):
    folders = {name: tmp_path / name for name in ("labelme", "via", "csv", "xml")}
    labelme(folders["labelme"], ("polygon", [[10, 10], [20, 10], [20, 20.25]], {}))
    draw(folders["via"] / "a.jpg")
    write_json(
        folders["via"] / "via.json",
        {"a.jpg9": {"filename": "a.jpg", "regions": via_regions(True, {"type": "cat"})}},
    )
    draw(folders["csv"] / "a.jpg")
    (folders["csv"] / "boxes.csv").write_text("image,label,x1,y1,x2,y2\na.jpg,cat,1,2,3.5,4\n")
    draw(folders["xml"] / "a.jpg")
    (folders["xml"] / "a.xml").write_text(voc_xml(OBJECT))
    for folder in folders.values():
        dataset = register_folder(folder)
        found = dataset.source
        source = comparable({"all": found.splits["all"]()}, found.classes)
        for to in ("coco", "yolo", "voc"):
            out = folder.parent / f"{folder.name}_{to}"
            assert convert_dataset(dataset, out, to).losses == []
            back, _ = read(out)
            assert list(back.values()) == list(source.values()), (folder.name, to)
