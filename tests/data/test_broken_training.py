"""Trainings on broken datasets: they finish, list what was wrong, and learn what they should."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from detectron2 import model_zoo
from detectron2.config import LazyCall, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.check import check, cleaned_content, coco_dataset
from detectron2.data.datasets.coco import register_coco_instances
from detectron2.data.datasets.drawn_shapes import write_drawn_shapes
from detectron2.data.quarantine import LIST_FILE, Quarantine, read_list
from detectron2.engine import DefaultTrainer
from detectron2.engine._recipe import LazyRecipe
from detectron2.engine.quickstart.pipeline import CONFIG_NAME
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import JSONWriter

IMAGES = 40
BROKEN_FILES = {7, 23}  # 5 % of the images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Drawn shapes of which 5 % of the images are broken: one cut off, one of another size."""
    folder = tmp_path_factory.mktemp("broken")
    write_drawn_shapes(folder, train_images=IMAGES, val_images=1, size=(48, 64))
    content = json.loads((folder / "train.json").read_text())
    first, second = (folder / "train" / f"{i:05d}.png" for i in sorted(BROKEN_FILES))
    first.write_bytes(first.read_bytes()[:900])
    second.write_bytes((folder / "val" / "00000.png").read_bytes())
    content["images"][sorted(BROKEN_FILES)[1]]["width"] += 5
    (folder / "broken.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def register(folder):
    names = []

    def under(name, file):
        register_coco_instances(name, {}, str(file), str(folder / "train"))
        names.append(name)
        return name

    yield under
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "fvcore"))


def config(name, output, iterations, **options):
    cfg = model_zoo.get_config(CONFIG_NAME)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    cfg.INPUT.MIN_SIZE_TRAIN = (32,)
    cfg.MODEL.KEYPOINT_ON = False
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 4, iterations, ()
    output.mkdir(exist_ok=True)
    cfg.OUTPUT_DIR = str(output)
    for key, value in options.items():
        setattr(cfg.DATALOADER, key, value)
    return cfg


class EveryIteration(DefaultTrainer):
    def build_writers(self):
        return [JSONWriter(f"{self.cfg.OUTPUT_DIR}/metrics.json")]

    def build_hooks(self):
        hooks = super().build_hooks()
        hooks[-1]._period = 1
        return hooks


def losses(cfg):
    """Train, and return the total loss of every iteration."""
    seed_all_rng(3)
    trainer = EveryIteration(cfg)
    trainer.train()
    lines = Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    return [json.loads(line)["total_loss"] for line in lines]


def test_training_on_broken_samples_finishes_and_lists_exactly_those(
    folder, register, tmp_path, caplog
):
    name = register("broken_shapes", folder / "broken.json")
    cfg = config(name, tmp_path / "out", iterations=IMAGES // 4)
    curve = losses(cfg)
    assert len(curve) == IMAGES // 4 and np.isfinite(curve).all()
    entries = read_list(tmp_path / "out" / LIST_FILE)
    assert {entry["image_id"] - 1 for entry in entries} == BROKEN_FILES
    reasons = {entry["image_id"] - 1: entry["reason"] for entry in entries}
    assert "cannot be decoded" in reasons[7] and "the dataset says 69 x 48" in reasons[23]


def test_with_the_check_losses_are_those_of_the_cleaned_dataset(folder, register, tmp_path):
    dataset = coco_dataset(folder / "broken.json", folder / "train")
    content = cleaned_content(dataset.load(), check(dataset).problems, "skip")
    assert len(content["images"]) == IMAGES - len(BROKEN_FILES)
    (tmp_path / "cleaned.json").write_text(json.dumps(content))
    cleaned = register("cleaned_shapes", tmp_path / "cleaned.json")
    broken = register("broken_shapes", folder / "broken.json")
    want = losses(config(cleaned, tmp_path / "a", iterations=4))
    got = losses(config(broken, tmp_path / "b", iterations=4, CHECK="skip"))
    assert got == want
    assert not (tmp_path / "b" / LIST_FILE).exists()
    assert (tmp_path / "b" / "dataset_check_broken_shapes.html").exists()


def test_policy_fail_ends_before_the_first_iteration(folder, register, tmp_path):
    name = register("broken_shapes", folder / "broken.json")
    with pytest.raises(ValueError, match=r"(?s)2 errors.*00007\.png.*00023\.png"):
        DefaultTrainer(config(name, tmp_path, iterations=4, CHECK="fail"))


def test_the_summary_at_the_end_names_the_samples(folder, register, tmp_path, caplog):
    dataset = coco_dataset(folder / "broken.json", folder / "train")
    content = cleaned_content(dataset.load(), check(dataset).problems, "skip")
    (tmp_path / "cleaned.json").write_text(json.dumps(content))
    name = register("cleaned_shapes", tmp_path / "cleaned.json")
    trainer = DefaultTrainer(config(name, tmp_path, iterations=1))
    Quarantine(IMAGES, list_file=tmp_path / LIST_FILE)._take(
        7, {"file_name": "seven.png"}, OSError("It is gone.")
    )
    logging.getLogger("detectron2").propagate = True
    trainer.train()
    assert "1 samples could not be used in this training: seven.png" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_lists_of_worker_processes_name_each_sample_once(folder, register, tmp_path, workers):
    name = register("broken_shapes", folder / "broken.json")
    cfg = config(name, tmp_path, iterations=1, NUM_WORKERS=workers)
    loader = iter(build_detection_train_loader(cfg))
    for _ in range(IMAGES):
        next(loader)
    assert {e["image_id"] - 1 for e in read_list(tmp_path / LIST_FILE)} == BROKEN_FILES


def test_lazy_configs_check_and_list_as_well(folder, register, tmp_path):
    name = register("broken_shapes", folder / "broken.json")
    train = LazyCall(build_detection_train_loader)(
        dataset=LazyCall(get_detection_dataset_dicts)(names=name),
        mapper=LazyCall(DatasetMapper)(is_train=True, augmentations=[], image_format="BGR"),
        total_batch_size=2,
    )
    cfg = OmegaConf.create({"dataloader": {"train": train}, "train": {"output_dir": str(tmp_path)}})
    loader = iter(LazyRecipe(cfg).train_loader())
    for _ in range(IMAGES):
        next(loader)
    assert {e["image_id"] - 1 for e in read_list(tmp_path / LIST_FILE)} == BROKEN_FILES
    cfg.dataloader.train.dataset.check = "skip"
    assert len(instantiate(cfg.dataloader.train.dataset)) == IMAGES - 2
    LazyRecipe(cfg).train_loader()
    assert (tmp_path / "dataset_check_broken_shapes.json").exists()
    assert "check_output" not in cfg.dataloader.train.dataset


def test_a_budget_of_the_config_is_kept(folder, register, tmp_path):
    name = register("broken_shapes", folder / "broken.json")
    cfg = config(name, tmp_path, iterations=1, UNREADABLE_BUDGET=1)
    loader = iter(build_detection_train_loader(cfg))
    with pytest.raises(RuntimeError, match=r"2 samples.*DATALOADER\.UNREADABLE_BUDGET"):
        for _ in range(IMAGES):
            next(loader)


MALFORMED = {
    "no box": ({"bbox": None}, "The box None"),
    "no form": ({"bbox_mode": None}, "box"),
    "missing": ({}, "'bbox'"),
    "NaN": ({"bbox": [1, 2, float("nan"), 4]}, "box is not made of finite numbers"),
    "text": ({"bbox": [1, 2, "three", 4]}, "box"),
    "class": ({"category_id": "cat"}, "category_id"),
    "no class": ({"category_id": None}, "category_id"),
    "polygon": ({"segmentation": [5]}, "polygon is 5"),
    "polygon of text": ({"segmentation": [["a"] * 6]}, "polygon"),
    "RLE": ({"segmentation": {"size": [48, 64], "counts": "PP~~"}}, "run-length"),
    "RLE without counts": ({"segmentation": {"size": [48, 64]}}, "run-length"),
    "RLE of another size": ({"segmentation": {"size": [2, 2], "counts": [4]}}, "mask"),
    "keypoints": ({"keypoints": [1, 2]}, "keypoints"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_annotations_are_put_aside_with_the_reason(folder, register, tmp_path, case):
    changes, reason = MALFORMED[case]
    cfg = config(register("shapes", folder / "train.json"), tmp_path, iterations=1)
    cfg.MODEL.KEYPOINT_ON = True
    records = DatasetCatalog.get("shapes")[:6]
    for record in records:
        for entry in record["annotations"]:
            entry.pop("keypoints")
    if changes:
        records[2]["annotations"][0].update(changes)
    else:
        del records[2]["annotations"][0]["bbox"]
    MetadataCatalog.get("shapes").set(keypoint_names=[], keypoint_flip_map=[])
    loader = build_detection_train_loader(
        records,
        mapper=DatasetMapper(cfg, True),
        total_batch_size=1,
        unreadable_list=str(tmp_path / LIST_FILE),
    )
    stream = iter(loader)
    for _ in range(12):
        assert torch.isfinite(next(stream)[0]["instances"].gt_boxes.tensor).all()
    (entry,) = read_list(tmp_path / LIST_FILE)
    assert entry["index"] == 2 and reason in entry["reason"]
