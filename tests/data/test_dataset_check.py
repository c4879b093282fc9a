"""The dataset doctor: every kind of problem, the policies, the cache, the reports."""

import json
import os
import shutil
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from detectron2.cli.main import main
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.check import (
    KINDS,
    Cache,
    DatasetProblemsError,
    check,
    cleaned_content,
    coco_dataset,
    load_checked,
)
from detectron2.data.check import cache as cache_module
from detectron2.data.check.shapes import crosses_itself, rle_counts
from detectron2.data.datasets.auto import recognize
from detectron2.data.datasets.coco import load_coco_json, register_coco_instances
from detectron2.data.datasets.drawn_shapes import write_drawn_shapes
from detectron2.structures import BoxMode

SIZE = (48, 64)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    write_drawn_shapes(folder, train_images=6, val_images=3, size=SIZE)
    return folder


@pytest.fixture
def shapes(clean, tmp_path):
    """A copy of a small dataset: `content`, its `images`, and `check()` of what became of it."""
    return Shapes(clean, tmp_path)


class Shapes:
    def __init__(self, clean, folder):
        self.images, self.file = folder / "photos", folder / "train.json"
        self.images.mkdir()
        self.content = json.loads((clean / "train.json").read_text())
        for annotation in self.content["annotations"]:
            annotation.pop("keypoints"), annotation.pop("num_keypoints")
        for category in self.content["categories"]:
            del category["keypoints"]
        for image in self.content["images"]:
            data = (clean / "train" / image["file_name"]).read_bytes()
            (self.images / image["file_name"]).write_bytes(data)
        self.cache = Cache(folder / "cache")

    def path(self, position):
        return self.images / self.content["images"][position]["file_name"]

    def image(self, position):
        return Image.open(self.path(position)).convert("RGB")

    def dataset(self):
        self.file.write_text(json.dumps(self.content))
        return coco_dataset(self.file, self.images)

    def check(self, **options):
        return check(self.dataset(), cache=self.cache, **options)

    def errors(self):
        """Problems other than that small datasets have few objects of each class."""
        return [p for p in self.check().problems if p.kind != "class-imbalance"]


def test_a_clean_dataset_has_no_problems(shapes):
    assert shapes.errors() == []


def save_turned(shapes, position, orientation, quality=90):
    """Store an image on its side, with the EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = shapes.image(position).transpose(Image.Transpose.ROTATE_90)
    stored.save(shapes.path(position), "JPEG", exif=exif, quality=quality)
    return stored.size


def unturned(shapes):
    width, height = save_turned(shapes, 2, orientation=6)
    shapes.content["images"][2].update(width=width, height=height)
    # Of the boxes we want to hear nothing here.
    drop_annotations(shapes, 2)


def drop_annotations(shapes, position):
    number = shapes.content["images"][position]["id"]
    shapes.content["annotations"] = [
        a for a in shapes.content["annotations"] if a["image_id"] != number
    ]


def cut(shapes, position, share):
    data = shapes.path(position).read_bytes()
    shapes.path(position).write_bytes(data[: int(len(data) * share)])


def without_end_marker(shapes):
    shapes.image(2).save(shapes.path(2), "JPEG")
    data = shapes.path(2).read_bytes()
    shapes.path(2).write_bytes(data[:-2])


def annotation(**changes):
    return lambda shapes: shapes.content["annotations"][1].update(changes)


def image(**changes):
    return lambda shapes: shapes.content["images"][2].update(changes)


def without_annotations(**changes):
    def break_it(shapes):
        drop_annotations(shapes, 2)
        shapes.content["images"][2].update(changes)

    return break_it


def repeat(which, **changes):
    return lambda s: s.content[which].append({**s.content[which][0], **changes})


def rle(size, counts):
    return annotation(segmentation={"size": size, "counts": counts})


def recompress(shapes):
    shapes.image(0).save(shapes.path(2), "JPEG", quality=60)
    drop_annotations(shapes, 2)


SQUARE = [4, 4, 30, 4, 30, 30, 4, 30]
BOW = [4, 4, 30, 30, 30, 4, 4, 30]
AREA = SIZE[0] * SIZE[1]

# What is done to the dataset, and the one kind of problem that it makes.
FAULTS: dict[str, tuple[Callable, str]] = {
    "no file": (lambda s: s.path(2).unlink(), "missing-image"),
    "empty file": (lambda s: s.path(2).write_bytes(b""), "truncated-image"),
    "no image": (lambda s: s.path(2).write_bytes(b"no image" * 99), "unreadable-image"),
    "half a file": (lambda s: cut(s, 2, 0.5), "truncated-image"),
    "no end marker": (without_end_marker, "truncated-image"),
    "other size": (image(width=80), "wrong-size"),
    "turned by EXIF": (lambda s: save_turned(s, 2, 6), "exif-rotated"),
    "annotated unturned": (unturned, "exif-unturned"),
    "image without id": (without_annotations(id=None), "malformed-image"),
    "image of no width": (image(width=0), "malformed-image"),
    "image with a text as id": (without_annotations(id="three"), "malformed-image"),
    "empty box": (annotation(bbox=[5, 5, 0, 8]), "bad-box"),
    "negative box": (annotation(bbox=[5, 5, -4, 8]), "bad-box"),
    "NaN box": (annotation(bbox=[5, float("nan"), 4, 8]), "bad-box"),
    "box of two numbers": (annotation(bbox=[5, 6]), "malformed-annotation"),
    "no box": (annotation(bbox=None), "malformed-annotation"),
    "box outside": (annotation(bbox=[70, 5, 9, 9]), "outside-box"),
    "box over the border": (annotation(bbox=[50, 5, 30, 9]), "overhanging-box"),
    "two points": (annotation(segmentation=[[1, 1, 9, 9]]), "bad-polygon"),
    "no area": (annotation(segmentation=[[1, 1, 5, 5, 9, 9]]), "bad-polygon"),
    "NaN polygon": (annotation(segmentation=[[*SQUARE[:7], float("nan")]]), "bad-polygon"),
    "one short polygon": (annotation(segmentation=[SQUARE, [1, 1, 9, 9]]), "short-polygon"),
    "polygon outside": (annotation(segmentation=[[v + 99 for v in SQUARE]]), "outside-polygon"),
    "crossing polygon": (annotation(segmentation=[BOW]), "crossing-polygon"),
    "flat polygon": (annotation(segmentation=SQUARE), "malformed-annotation"),
    "RLE of another size": (rle([64, 48], [AREA // 2, AREA // 2]), "rle-size"),
    "RLE of too few pixels": (rle(list(SIZE), [5, 5]), "bad-rle"),
    "RLE with a negative run": (rle(list(SIZE), [-5, AREA + 5]), "bad-rle"),
    "RLE of nonsense": (rle(list(SIZE), "\x01\x02"), "bad-rle"),
    "empty RLE": (rle(list(SIZE), [AREA]), "bad-rle"),
    "four keypoint numbers": (annotation(keypoints=[1, 2, 2, 3]), "bad-keypoints"),
    "NaN keypoints": (annotation(keypoints=[1, float("inf"), 2]), "bad-keypoints"),
    "unknown category": (annotation(category_id=77), "unknown-category"),
    "unknown image": (annotation(image_id=77), "unknown-image"),
    "ignore": (annotation(ignore=1), "ignore-flag"),
    "image id twice": (repeat("images", file_name="00001.png"), "duplicate-image-id"),
    "annotation id twice": (repeat("annotations", bbox=[1, 1, 9, 9]), "duplicate-annotation-id"),
    "category id twice": (repeat("categories"), "duplicate-category-id"),
    "category without name": (repeat("categories", id=9, name=None), "malformed-category"),
    "annotated twice": (repeat("annotations", id=9999), "duplicate-annotation"),
    "compressed again": (recompress, "duplicate-image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_named_and_left_out(shapes, fault):
    break_it, kind = FAULTS[fault]
    before = len(shapes.content["images"]), len(shapes.content["annotations"])
    break_it(shapes)
    found = [p for p in shapes.errors() if p.kind != "duplicate-image" or kind == p.kind]
    assert [p.kind for p in found] == [kind]
    problem = found[0]
    assert problem.reason.endswith(".") and len(problem.reason.split()) > 5
    where = problem.image, problem.annotation, problem.category
    assert where != (None, None, None)
    if problem.annotation is not None and kind != "malformed-annotation":
        entry = shapes.content["annotations"][problem.annotation]
        assert (problem.image_id, problem.annotation_id) == (entry["image_id"], entry["id"])
        assert f"{entry['id']!r}" in problem.reason
    for policy in ("skip", "fix"):
        content = cleaned_content(shapes.content, found, policy)
        changed = problem.is_error or (policy == "fix" and problem.repair is not None)
        assert (content != shapes.content) == changed
        (shapes.file).write_text(json.dumps(content))
        report = check(coco_dataset(shapes.file, shapes.images), cache=shapes.cache)
        assert report.errors == []
        assert len(content["images"]) <= before[0]
        assert len(load_coco_json(str(shapes.file), str(shapes.images))) > 3


def test_every_kind_of_problem_of_one_entry_has_a_test():
    about_the_whole = {"class-imbalance", "leakage"}
    assert {kind for _, kind in FAULTS.values()} == set(KINDS) - about_the_whole


@pytest.mark.parametrize(
    ("break_it", "mended"),
    [
        (annotation(bbox=[50, 5, 30, 9]), {"bbox": [50, 5, 14, 9]}),
        (
            annotation(bbox=[5, 5, 0, 8], segmentation=[SQUARE]),
            {"bbox": [4, 4, 26, 26], "segmentation": [SQUARE]},
        ),
        (annotation(segmentation=[SQUARE, [1, 1, 9, 9]]), {"segmentation": [SQUARE]}),
        (annotation(ignore=1), {"iscrowd": 1, "ignore": 0}),
    ],
)
def test_fix_mends_what_can_be_mended(shapes, break_it, mended):
    break_it(shapes)
    content = cleaned_content(shapes.content, shapes.errors(), "fix")
    assert content["annotations"][1].items() >= mended.items()


def test_fix_takes_the_size_of_the_file(shapes):
    image(width=80, height=9)(shapes)
    content = cleaned_content(shapes.content, shapes.errors(), "fix")
    assert (content["images"][2]["height"], content["images"][2]["width"]) == SIZE


def test_classes_without_objects_are_named(shapes):
    shapes.content["categories"].append({"id": 99, "name": "unicorn"})
    reasons = [p.reason for p in shapes.check().problems if p.kind == "class-imbalance"]
    assert any("1 of 6 classes" in r and "unicorn" in r for r in reasons)


def test_images_of_the_validation_set_in_the_training_set_are_leaks(shapes, clean, tmp_path):
    shutil.copytree(clean / "val", tmp_path / "val")
    shapes.image(0).resize((50, 40)).save(tmp_path / "val" / "00001.png")
    val = coco_dataset(clean / "val.json", tmp_path / "val")
    found = [p for p in shapes.check(against=[val]).problems if p.kind == "leakage"]
    assert len(found) == 1 and found[0].file == str(shapes.path(0))
    assert found[0].other_file.endswith(os.path.join("val", "00001.png"))


def test_photographs_that_differ_are_no_duplicates(shapes):
    rng = np.random.default_rng(0)
    for position in range(6):  # noise on a common ground: the same picture for no one
        pixels = np.asarray(shapes.image(0)).astype(int)
        pixels[:, 10 * position : 10 * position + 14] = rng.integers(0, 256, (48, 14, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(shapes.path(position))
    assert [p for p in shapes.errors() if p.kind == "duplicate-image"] == []


# -- shapes


@pytest.mark.parametrize(
    ("points", "crosses"),
    [(SQUARE, False), (BOW, True), ([0, 0, 4, 0, 4, 4, 2, 0, 0, 4], False), (SQUARE[:6], False)],
)
def test_only_edges_that_really_cross_count(points, crosses):
    assert crosses_itself(np.array(points, dtype=float).reshape(-1, 2)) is crosses


def test_convention_run_lengths_are_read_as_hotcoco_writes_them():
    import hotcoco.mask

    rng = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.98):
        mask = (rng.random((37, 53)) < density).astype(np.uint8)
        encoded = hotcoco.mask.encode(np.asfortranarray(mask))
        runs = rle_counts(encoded)
        assert sum(runs) == mask.size and sum(runs[1::2]) == mask.sum()
        again = hotcoco.mask.frPyObjects({"size": [37, 53], "counts": runs}, 37, 53)
        assert again["counts"] == encoded["counts"]


# -- the cache


def test_a_second_check_opens_no_image(shapes, monkeypatch):
    first = shapes.check()
    monkeypatch.setattr(cache_module, "inspect_images", lambda *_: pytest.fail("images were read"))
    second = shapes.check()
    assert second.from_cache and not first.from_cache
    assert second.problems == first.problems and second.classes == first.classes


def test_other_annotations_do_not_make_images_be_read_again(shapes, monkeypatch):
    shapes.check()
    monkeypatch.setattr(cache_module, "inspect_images", lambda *_: pytest.fail("images were read"))
    annotation(bbox=[5, 5, 0, 8])(shapes)
    assert [p.kind for p in shapes.errors()] == ["bad-box"]


def test_an_image_that_changed_is_noticed(shapes):
    assert shapes.errors() == []
    cut(shapes, 2, 0.5)
    assert [p.kind for p in shapes.errors()] == ["truncated-image"]


def test_a_file_that_was_only_touched_is_not_decoded_again(shapes, monkeypatch):
    shapes.check()
    os.utime(shapes.path(2), (time.time() + 5, time.time() + 5))
    from detectron2.data.check import images

    monkeypatch.setattr(images, "open_image", lambda *_: pytest.fail("an image was decoded"))
    assert shapes.errors() == []


# -- registered datasets


@pytest.fixture
def name():
    yield (name := "checked_shapes")
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "fvcore"))


def test_skip_leaves_the_records_of_the_cleaned_file(shapes, name, tmp_path):
    cut(shapes, 2, 0.5)
    annotation(category_id=77)(shapes)
    report = shapes.check()
    (tmp_path / "cleaned.json").write_text(
        json.dumps(cleaned_content(shapes.content, report.problems, "skip"))
    )
    expected = load_coco_json(str(tmp_path / "cleaned.json"), str(shapes.images), "cleaned_shapes")
    register_coco_instances(name, {}, str(shapes.file), str(shapes.images))
    got = get_detection_dataset_dicts(name, check="skip", check_output=str(tmp_path / "out"))
    assert got == expected and len(got) == 5
    written = json.loads((tmp_path / "out" / f"dataset_check_{name}.json").read_text())
    assert written["counts"].items() >= {"truncated-image": 1, "unknown-category": 1}.items()
    assert MetadataCatalog.get(name).thing_classes[0] == "disc"


def test_fail_names_the_errors(shapes, name):
    cut(shapes, 2, 0.5)
    shapes.dataset()
    register_coco_instances(name, {}, str(shapes.file), str(shapes.images))
    with pytest.raises(DatasetProblemsError, match=r"(?s)1 errors.*00002.png.*'skip' or 'fix'"):
        load_checked(name, "fail")
    assert len(load_checked(name, "report")) == 6


def test_records_of_any_origin_are_checked(shapes, name, caplog):
    records = load_coco_json(str((shapes.dataset(), shapes.file)[1]), str(shapes.images))
    for record in records:
        for entry in record["annotations"]:
            entry["category_id"] -= 1
    cut(shapes, 2, 0.5)
    records[1]["annotations"][0]["bbox"] = [3, 3, 3, 3]
    records[1]["annotations"][0]["bbox_mode"] = BoxMode.XYXY_ABS
    records[1]["annotations"][0]["segmentation"] = [SQUARE]
    records[3]["annotations"][0]["segmentation"] = np.zeros((5, 5), dtype=bool)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["disc", "ring", "square", "triangle", "star"]
    skipped = load_checked(name, "skip")
    assert len(skipped) == 5
    lost = [
        len(records[i]["annotations"]) - len(r["annotations"])
        for i, r in zip((0, 1, 3, 4, 5), skipped)
    ]
    assert lost == [0, 1, 1, 0, 0]
    fixed = load_checked(name, "fix")
    box = fixed[1]["annotations"][0]
    assert BoxMode.convert(box["bbox"], box["bbox_mode"], BoxMode.XYXY_ABS) == [4, 4, 30, 30]
    assert fixed[0] == records[0]
    assert "truncated-image: 1 in checked_shapes" in caplog.text


def test_an_unknown_policy_is_explained(shapes, name):
    with pytest.raises(ValueError, match="'ignore'; use one of report, fail, skip, fix"):
        load_checked(name, "ignore")


# -- the command


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["detectron2", "dataset", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capsys.readouterr()


def test_command_reports_and_writes_what_is_left(shapes, monkeypatch, capsys, tmp_path):
    cut(shapes, 2, 0.5)
    shapes.dataset()
    out = tmp_path / "out"
    code, printed = command(
        monkeypatch, capsys, shapes.file, shapes.images, "--output", out,
        "--policy", "skip", "--write", tmp_path / "left.json",
    )  # fmt: skip
    assert code == 0 and "Image files that end too early (1)" in printed.out
    assert "5 of 6 images" in printed.out
    assert len(json.loads((tmp_path / "left.json").read_text())["images"]) == 5
    assert json.loads((out / "report.json").read_text())["problems"][0]["image_id"] == 3
    code, printed = command(
        monkeypatch, capsys, shapes.file, shapes.images, "--output", out, "--policy", "fail"
    )
    assert code == 1 and "1 errors" in printed.err and "Traceback" not in printed.err


def test_command_checks_the_splits_of_a_folder_and_what_they_share(
    clean, monkeypatch, capsys, tmp_path
):
    shutil.copytree(clean, tmp_path / "data")
    folder, out = tmp_path / "data", tmp_path / "out"
    shutil.copy(folder / "train" / "00001.png", folder / "val" / "00000.png")
    code, printed = command(monkeypatch, capsys, folder, "--output", out)
    assert code == 0 and "in the validation set (1)" in printed.out
    assert {p.name for p in out.iterdir()} == {
        f"report_{split}.{kind}" for split in ("train", "val") for kind in ("html", "json")
    }
    code, printed = command(
        monkeypatch, capsys, folder, "--policy", "fix", "--write", tmp_path / "left.json"
    )
    assert code == 1 and "the splits train, val" in printed.err


def test_what_is_left_of_registered_records_is_written_as_coco(
    shapes, name, monkeypatch, capsys, tmp_path
):
    cut(shapes, 2, 0.5)
    records = load_coco_json(str((shapes.dataset(), shapes.file)[1]), str(shapes.images))
    for record in records:
        for entry in record["annotations"]:
            entry["category_id"] -= 1
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["disc", "ring", "square", "triangle", "star"]
    left = tmp_path / "left.json"
    command(
        monkeypatch, capsys, name, "--policy", "skip", "--write", left, "--output", tmp_path / "o"
    )
    assert "_origin" not in left.read_text()
    again = load_coco_json(str(left), "")
    assert [r["file_name"] for r in again] == [records[i]["file_name"] for i in (0, 1, 3, 4, 5)]
    assert again[0]["annotations"][0]["bbox"] == records[0]["annotations"][0]["bbox"]


def test_command_says_what_is_missing(monkeypatch, capsys, tmp_path):
    code, printed = command(monkeypatch, capsys, tmp_path / "none.json")
    assert code == 1 and "neither a registered dataset nor" in printed.err
    code, printed = command(monkeypatch, capsys, tmp_path / "none.json", "--policy", "fix")
    assert code == 1 and "needs --write" in printed.err


def test_a_folder_is_checked_also_if_it_cannot_be_trained_on(shapes, tmp_path, monkeypatch, capsys):
    annotation(bbox=[1, 2, float("nan"), 4])(shapes)
    shapes.content["annotations"][2].pop("category_id")
    shapes.content["images"][2]["width"] += 9
    shapes.dataset()
    code, printed = command(
        monkeypatch, capsys, tmp_path, "--output", tmp_path / "out", "--no-cache"
    )
    assert code == 0
    for title in ("Boxes that are empty or not finite", "Annotations that cannot be read",
                  "Images of another size"):  # fmt: skip
        assert f"error: {title}" in printed.out
    with pytest.raises(ValueError, match=f"detectron2 dataset check {tmp_path}"):
        recognize(tmp_path)
