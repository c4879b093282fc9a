"""Broken files end in sentences: no traceback of the decoder or of our own code."""

import json
import warnings

import numpy as np
import pytest
from breakage import broken_text, image_bytes, mangled

from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data.check import Cache, check, cleaned_content, coco_dataset, inspect_image
from detectron2.data.datasets.coco import load_coco_json, records_of_coco
from detectron2.data.datasets.drawn_shapes import write_drawn_shapes
from detectron2.data.detection_utils import read_image
from detectron2.data.errors import SampleError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_drawn_shapes(folder, train_images=4, val_images=1, size=(48, 64))
    return folder


def is_sentence(error):
    """Whether an error says something to a user: a capital letter, a full stop, and some words."""
    text = str(error.args[0] if isinstance(error, KeyError) else error)
    return len(text.split()) >= 4 and text.rstrip().endswith((".", ";")) and "Traceback" not in text


def use_annotations(path, images):
    """Load, check and clean an annotation file; the errors that this ended in."""
    errors = []
    # Without a name: broken categories of one file must not meet those of another.
    load = lambda: load_coco_json(str(path), str(images))  # noqa: E731
    try:
        load()
    except (OSError, ValueError, KeyError, AssertionError) as error:
        errors.append(error)
    dataset = coco_dataset(path, images)
    try:
        report = check(dataset, images=False, cache=Cache(enabled=False))
    except ValueError as error:
        return [*errors, error]
    errors += [ValueError(problem.reason) for problem in report.errors]
    assert errors == [] or report.errors, "the loader refuses what the check did not find"
    for policy in ("skip", "fix"):
        content = cleaned_content(dataset.load(), report.problems, policy)
        use_records(records_of_coco(content, str(path), str(images)))
    return errors


def use_records(records):
    """What is left after a check can be used: every record gives a training sample."""
    cfg = get_cfg()
    cfg.INPUT.MASK_FORMAT, cfg.MODEL.MASK_ON = "bitmask", True
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    mapper = DatasetMapper(cfg, is_train=True)
    for record in records:
        try:
            mapper(record)
        except (OSError, SampleError) as error:
            # Only the images themselves were not checked.
            assert "image" in str(error), error


def fuzz_annotations(shapes, tmp_path, count, seed):
    content = json.loads((shapes / "train.json").read_text())
    sentences = 0
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        path = tmp_path / "broken.json"
        path.write_bytes(broken_text(content, rng))
        for error in use_annotations(path, shapes / "train"):
            assert is_sentence(error), (number, repr(error))
            sentences += 1
    return sentences


@pytest.mark.parametrize("entry", ["keypoints", "segmentation"])
@pytest.mark.parametrize("value", [[[]], [[1, 2, 2]], [[[1, 2], [3, 4], [5, 6]]]], ids=repr)
def test_lists_within_lists_of_numbers_are_called_so(shapes, tmp_path, entry, value):
    content = json.loads((shapes / "train.json").read_text())
    content["annotations"][0][entry] = [value] if entry == "segmentation" else value
    path = tmp_path / "nested.json"
    path.write_text(json.dumps(content))
    errors = use_annotations(path, shapes / "train")
    assert any("list of numbers" in str(error) for error in errors)
    assert all(map(is_sentence, errors))


def test_broken_annotation_files_end_in_sentences(shapes, tmp_path):
    assert fuzz_annotations(shapes, tmp_path, count=60, seed=0) > 30


@pytest.mark.slow
def test_two_thousand_broken_annotation_files_end_in_sentences(shapes, tmp_path):
    assert fuzz_annotations(shapes, tmp_path, count=2000, seed=1) > 1000


def fuzz_images(tmp_path, count, seed):
    """How many of so many broken images cannot be read."""
    refused = 0
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        path = tmp_path / f"{number}.img"
        path.write_bytes(mangled(image_bytes(rng), rng))
        form = ["BGR", "L", "CHANNELS", None][number % 4]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd headers that it can still read
            facts = inspect_image(str(path))
            try:
                image = read_image(str(path), form)
            except OSError as error:
                assert is_sentence(error), (number, repr(error))
                assert not facts.readable and is_sentence(ValueError(facts.reason)), number
                refused += 1
            else:
                assert image.size > 0, number
                assert facts.readable, (number, facts)
    return refused


def test_broken_images_end_in_sentences(tmp_path):
    assert fuzz_images(tmp_path, count=60, seed=0) > 30


@pytest.mark.slow
def test_five_hundred_broken_images_end_in_sentences(tmp_path):
    assert fuzz_images(tmp_path, count=500, seed=1) > 250
