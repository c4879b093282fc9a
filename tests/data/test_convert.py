import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from folder_datasets import CLASSES, WRITERS, comparable, draw, make_content, read

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_voc_instances
from detectron2.data.datasets.auto import open_dataset, recognize, register_folder
from detectron2.data.datasets.convert import convert_dataset, write_content
from detectron2.data.datasets.convert.content import Content
from detectron2.data.datasets.convert.yolo import join_parts
from detectron2.structures import BoxMode
from detectron2.utils.files import atomic_folder

pytestmark = pytest.mark.usefixtures("catalogs_as_before")

CARRIED = {
    "coco": ("boxes", "polygons", "parts", "rotated", "keypoints"),
    "yolo": ("boxes", "polygons", "rotated", "keypoints"),
    "voc": ("boxes", "polygons", "parts", "rotated"),
}


@pytest.mark.parametrize(
    "to, kind", [(to, kind) for to, kinds in CARRIED.items() for kind in kinds]
)
def test_what_a_format_carries_comes_back_unchanged(tmp_path, to, kind):
    content = make_content(tmp_path / "source", kind)
    result = write_content(content, tmp_path / "out", to)
    assert result.losses == [] and (result.images, result.annotations) == (6, 12)
    back, found = read(tmp_path / "out")
    assert list(found.classes) == CLASSES
    assert back == comparable(content.splits, CLASSES)
    if kind == "keypoints":
        assert found.metadata == {
            "keypoint_names": ["left_ear", "right_ear", "tail"],
            "keypoint_flip_map": [("left_ear", "right_ear")],
        }


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_a_dataset_without_splits_stays_so(tmp_path, to):
    content = make_content(tmp_path / "source", "polygons", splits=("all",))
    result = write_content(content, tmp_path / "out", to)
    back, _ = read(tmp_path / "out")
    if to == "yolo":  # cannot be without
        assert any("no splits" in remark for remark in result.remarks)
        back = {"all": back["train"]}
    assert back == comparable(content.splits, CLASSES)


@pytest.mark.parametrize(
    "first, second, kind",
    [
        (first, second, kind)
        for first in CARRIED
        for second in CARRIED
        for kind in CARRIED[first]
        if kind in CARRIED[second]
    ],
)
def test_there_and_back_through_another_format(tmp_path, first, second, kind):
    write_content(make_content(tmp_path / "source", kind, images=2), tmp_path / "one", first)
    convert_dataset(register_folder(tmp_path / "one"), tmp_path / "two", second)
    convert_dataset(register_folder(tmp_path / "two"), tmp_path / "three", first)
    assert read(tmp_path / "three")[0] == read(tmp_path / "one")[0]


@pytest.mark.parametrize("to", CARRIED)
@pytest.mark.parametrize("name", WRITERS)
def test_formats_that_are_only_read_are_carried_unchanged(tmp_path, name, to):
    content = make_content(tmp_path / "source", "polygons", splits=("train",))
    WRITERS[name](tmp_path / "source", content)
    source, found = read(tmp_path / "source")
    assert sum(len(a) for *_, a in source["all"]) == 6 and set(found.classes) == set(CLASSES)
    result = convert_dataset(register_folder(tmp_path / "source"), tmp_path / "out", to)
    assert result.losses == []
    back = read(tmp_path / "out")[0]
    assert next(iter(back.values())) == source["all"]


def one_record(tmp_path, **annotation):
    path = draw(tmp_path / "source" / "a.png")
    annotation = {
        "bbox": [4.0, 5.0, 24.0, 25.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1,
        **annotation,
    }  # fmt: skip
    record = {"file_name": str(path), "width": 64, "height": 48, "annotations": [annotation]}
    return Content(splits={"train": [record]}, classes=list(CLASSES))


def run_lengths(hole=False):
    from hotcoco import mask

    bitmap = np.zeros((48, 64), dtype=np.uint8, order="F")
    bitmap[5:25, 4:24] = 1
    if hole:
        bitmap[10:15, 10:15] = 0
    return mask.encode(bitmap)


def test_run_lengths_and_crowds_stay_in_coco(tmp_path):
    content = one_record(tmp_path, segmentation=run_lengths(hole=True), iscrowd=1)
    assert write_content(content, tmp_path / "out", "coco").losses == []
    back, found = read(tmp_path / "out")
    assert back == comparable(content.splits, CLASSES)
    assert found.splits["train"]()[0]["annotations"][0]["iscrowd"] == 1


@pytest.mark.parametrize("to", ["yolo", "voc"])
@pytest.mark.parametrize(
    "annotation, sentence",
    [
        ({"segmentation": run_lengths()}, "1 masks become polygons"),
        ({"segmentation": run_lengths(hole=True)}, "1 masks have holes"),
        ({"segmentation": run_lengths(), "iscrowd": 1}, "1 crowd regions are left out"),
    ],
)
def test_what_cannot_be_carried_is_said(tmp_path, to, annotation, sentence):
    result = write_content(one_record(tmp_path, **annotation), tmp_path / "out", to)
    assert any(sentence in loss for loss in result.losses)
    found = recognize(tmp_path / "out")
    kept = found.splits["train"]()[0]["annotations"]
    assert len(kept) == (0 if annotation.get("iscrowd") else 1)
    for each in kept:
        assert np.abs(np.array(each["bbox"]) - [4, 5, 24, 25]).max() <= 1


def test_losses_of_yolo_and_voc(tmp_path):
    triangle = [6.0, 6.0, 20.0, 6.0, 20.0, 20.0]
    content = one_record(tmp_path, segmentation=[triangle, [30.0, 30.0, 40.0, 30.0, 40.0, 40.0]])
    losses = write_content(content, tmp_path / "parts", "yolo").losses
    assert any("joined" in loss for loss in losses)
    assert any("boxes differ" in loss for loss in losses)
    content = one_record(tmp_path, keypoints=[1.0, 2.0, 2.0])
    content.keypoints, content.flip = ["nose"], [0]
    assert any("keypoints" in x for x in write_content(content, tmp_path / "v", "voc").losses)
    content = one_record(tmp_path, keypoints=[1.0, 2.0, 2.0], segmentation=[triangle])
    content.keypoints, content.flip = ["nose"], [0]
    assert any("masks" in x for x in write_content(content, tmp_path / "p", "yolo").losses)


def test_joined_parts_cover_what_the_parts_cover():
    from detectron2.structures import polygons_to_bitmask

    parts = [
        np.array([[2.0, 2], [20, 2], [20, 20], [2, 20]]),
        np.array([[40.0, 30], [60, 30], [60, 45], [40, 45]]),
        np.array([[5.0, 30], [15, 30], [15, 40], [5, 40]]),
    ]
    apart = polygons_to_bitmask([part.reshape(-1) for part in parts], 48, 64)
    together = polygons_to_bitmask([join_parts(parts).reshape(-1)], 48, 64)
    assert (apart != together).sum() <= 0.05 * apart.sum()
    assert len(join_parts(parts)) == sum(map(len, parts)) + 2 * 2


def test_images_of_one_name_are_told_apart(tmp_path):
    content = make_content(tmp_path / "source", "boxes", splits=("train",), images=2)
    other = draw(tmp_path / "other" / Path(content.splits["train"][0]["file_name"]).name, 10, 9)
    content.splits["train"].append(
        {"file_name": str(other), "width": 10, "height": 9, "annotations": []}
    )
    for to in ("coco", "yolo", "voc"):
        write_content(content, tmp_path / to, to)
        records = recognize(tmp_path / to).splits["train"]()
        assert sorted((r["width"], r["height"]) for r in records) == [(10, 9), (64, 48), (64, 48)]


def test_names_in_lists_of_voc_have_no_spaces(tmp_path):
    content = one_record(tmp_path)
    photo = draw(tmp_path / "source" / "my photo.png")
    content.splits["train"][0]["file_name"] = str(photo)
    write_content(content, tmp_path / "out", "voc")
    (record,) = load_voc_instances(str(tmp_path / "out"), "train", CLASSES)
    assert record["image_id"] == "my_photo"
    # Other programs write them all the same.
    (tmp_path / "out" / "Annotations" / "my_photo.xml").rename(
        tmp_path / "out" / "Annotations" / "my photo.xml"
    )
    (tmp_path / "out" / "ImageSets" / "Main" / "train.txt").write_text("my photo\n")
    assert len(recognize(tmp_path / "out").splits["train"]()) == 1


@pytest.mark.parametrize("images", ["hardlink", "symlink"])
def test_images_can_be_linked(tmp_path, images):
    content = make_content(tmp_path / "source", "boxes", splits=("train",))
    write_content(content, tmp_path / "out", "coco", images=images)
    path = Path(recognize(tmp_path / "out").splits["train"]()[0]["file_name"])
    assert path.is_symlink() == (images == "symlink")
    assert path.samefile(content.splits["train"][0]["file_name"])


def test_a_folder_is_not_overwritten_unasked(tmp_path):
    write_content(make_content(tmp_path / "a", "boxes"), tmp_path / "out", "coco")
    with pytest.raises(FileExistsError, match="exists already"):
        write_content(make_content(tmp_path / "b", "boxes"), tmp_path / "out", "yolo")
    assert recognize(tmp_path / "out").format == "COCO"
    write_content(make_content(tmp_path / "b", "boxes"), tmp_path / "out", "yolo", overwrite=True)
    assert recognize(tmp_path / "out").format == "YOLO boxes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]
    dataset = register_folder(tmp_path / "out")
    with pytest.raises(ValueError, match="would delete"):
        convert_dataset(dataset, tmp_path / "out", "coco", images="symlink", overwrite=True)


def test_an_error_leaves_the_old_folder(tmp_path):
    content = make_content(tmp_path / "a", "boxes")
    write_content(content, tmp_path / "out", "coco")
    content.splits["val"][0]["file_name"] = str(tmp_path / "missing.png")
    with pytest.raises(FileNotFoundError):
        write_content(content, tmp_path / "out", "yolo", overwrite=True)
    assert recognize(tmp_path / "out").format == "COCO"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_unknown_formats_and_datasets_without_objects(tmp_path):
    write_content(make_content(tmp_path / "a", "boxes"), tmp_path / "out", "coco")
    dataset = register_folder(tmp_path / "out")
    with pytest.raises(ValueError, match="'tfrecord' is no format"):
        convert_dataset(dataset, tmp_path / "new", "tfrecord")
    name = f"images_only_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.png"}])
    with pytest.raises(ValueError, match="nothing to convert"):
        convert_dataset(open_dataset(name), tmp_path / "new", "coco")
    DatasetCatalog.remove(name)


KILLED = """
import sys, time
from pathlib import Path
from detectron2.utils.files import atomic_folder
target = Path(sys.argv[1])
for turn in range(10**6):
    with atomic_folder(target, overwrite=True) as folder:
        for part in range(5):
            (folder / f"{part}.txt").write_text(str(turn))
    if turn == 2:
        print("ready", flush=True)
"""


def test_a_killed_process_leaves_the_old_or_the_new_folder(tmp_path):
    """The conversion writes through `atomic_folder`, which is killed here in full swing."""
    target = tmp_path / "out"
    seen = set()
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.01 + 0.007 * attempt)
        process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        process.wait()
        process.stdout.close()
        contents = [path.read_text() for path in sorted(target.iterdir())]
        assert len(contents) == 5 and len(set(contents)) == 1
        seen.add(contents[0])
    assert seen


def test_folders_are_swapped_where_the_system_cannot_exchange_them(tmp_path, monkeypatch):
    from detectron2.utils import files

    monkeypatch.setattr(files, "_EXCHANGE", {})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with atomic_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
