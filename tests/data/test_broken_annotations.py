"""Thousands of broken annotation files: each ends in a sentence or is read, none in a traceback."""

import json
import shutil

import numpy as np
import pytest
from folder_datasets import WRITERS, make_content, write_panoptic

from detectron2.data.datasets.auto import recognize
from detectron2.data.datasets.convert import write_content

JUNK = (None, True, "", "x", -1, 0, 1e400, float("nan"), 10**400, [], {}, [[]], "9" * 30, 2.5,
        [1, 2, "3"], {"a": None}, "../../etc", "\x00")  # fmt: skip
WORDS = (b"nan", b"-inf", b"1e999", b"\x00", b"\xff\xfe", b'"', b"<", b"&", b"[[", b"}", b"\n\n",
         b"0", b"-1", b"9999999999", b"{", b": ", b"../")  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A sound folder of every format and kind: name -> folder."""
    root = tmp_path_factory.mktemp("originals")
    folders = {}
    for to, kinds in {
        "coco": ("polygons", "keypoints", "rotated"),
        "yolo": ("boxes", "polygons", "rotated", "keypoints"),
        "voc": ("polygons", "rotated"),
    }.items():
        for kind in kinds:
            content = make_content(root / f"{to}_{kind}_images", kind, images=2)
            folders[f"{to}_{kind}"] = root / f"{to}_{kind}"
            write_content(content, folders[f"{to}_{kind}"], to)
    for name, writer in WRITERS.items():
        folder = root / name
        content = make_content(folder, "polygons", splits=("train",), images=2)
        writer(folder, content)
        folders[name] = folder
    folders["panoptic"] = write_panoptic(root / "panoptic")
    return folders


def annotation_files(folder):
    kinds = {".json", ".xml", ".yaml", ".csv", ".txt"}
    return sorted(path for path in folder.rglob("*") if path.suffix in kinds)


def damage_value(value, rng):
    """A copy of a JSON value in which one place, anywhere, holds something else."""
    if isinstance(value, (dict, list)) and len(value) and rng.random() < 0.8:
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = list(copy)[rng.integers(len(copy))] if isinstance(copy, dict) else int(
            rng.integers(len(copy))
        )  # fmt: skip
        if rng.random() < 0.15:
            del copy[key]
        else:
            copy[key] = damage_value(copy[key], rng)
        return copy
    return JUNK[rng.integers(len(JUNK))]


def damage_bytes(content, rng):
    content = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(len(content) + 1))
        end = min(len(content), start + int(rng.integers(1, 30)))
        kind = rng.integers(4)
        if kind == 0:
            del content[start:end]
        elif kind == 1:
            content[start:start] = WORDS[rng.integers(len(WORDS))]
        elif kind == 2:
            content[start:end] = WORDS[rng.integers(len(WORDS))]
        else:
            del content[start:]
    return bytes(content)


def damage(path, rng):
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        damaged = json.dumps(damage_value(json.loads(content), rng)).encode()
    else:
        damaged = damage_bytes(content, rng)
    path.write_bytes(damaged)


def read_everything(folder):
    found = recognize(folder)
    return [load() for load in found.splits.values()]


def fuzz(originals, tmp_path, count):
    rng = np.random.default_rng(0)
    names = sorted(originals)
    read = refused = 0
    for number in range(count):
        name = names[number % len(names)]
        folder = tmp_path / f"{number}_{name}"
        shutil.copytree(originals[name], folder)
        files = annotation_files(folder)
        damage(files[rng.integers(len(files))], rng)
        try:
            read_everything(folder)
            read += 1
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            sentence = str(error)
            assert len(sentence.split()) >= 4 and str(folder) in sentence, (name, sentence)
        shutil.rmtree(folder)
    return read, refused


def test_the_folders_are_sound_before_they_are_broken(originals):
    for folder in originals.values():
        assert sum(len(records) for records in read_everything(folder)) >= 1


def test_broken_annotation_files_end_in_sentences(originals, tmp_path):
    read, refused = fuzz(originals, tmp_path, 200)
    # Some damage does no harm; most is noticed.
    print(f"{read} read, {refused} refused")
    assert refused > read > 0


@pytest.mark.slow
def test_two_thousand_broken_annotation_files_end_in_sentences(originals, tmp_path):
    read, refused = fuzz(originals, tmp_path, 2000)
    print(f"{read} read, {refused} refused")
    assert refused > read > 0
