"""Mappers that a config chooses: JPEG at a reduced size, and rotated boxes."""

import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.config import get_cfg
from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.data._loaders_from_config import train_mapper
from detectron2.data.common import DatasetFromList
from detectron2.data.datasets import coco
from detectron2.data.datasets.coco import register_coco_instances
from detectron2.data.errors import SizeMismatchError, UnreadableImageError
from detectron2.data.reduced_decode import ReducedDecodeMapper, read_reduced_jpeg
from detectron2.data.rotated_mapper import RotatedDatasetMapper
from detectron2.data.shared_list import list_container, load_once_per_machine
from detectron2.engine import launch
from detectron2.structures import BoxMode, RotatedBoxes
from detectron2.utils import comm


def photograph(path, width=1200, height=900, **options):
    coarse = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.save(path, **options)
    return str(path)


def make_record(path, width=1200, height=900):
    annotation = {
        "bbox": [120, 90, 600, 450], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1,
        "segmentation": [[120.0, 90, 720, 90, 720, 540, 120, 540]],
    }  # fmt: skip
    return {"file_name": path, "width": width, "height": height, "annotations": [annotation]}


def mappers(shortest=300, **options):
    options = {
        "augmentations": [T.ResizeShortestEdge((shortest, shortest), 1333), T.RandomFlip()],
        "image_format": "BGR",
        "use_instance_mask": True,
        **options,
    }
    return [cls(True, **options) for cls in (DatasetMapper, ReducedDecodeMapper)]


def mapped(mapper, record):
    np.random.seed(3)
    return mapper(record)


def test_a_reduced_image_looks_like_a_whole_one_that_is_resized(tmp_path):
    record = make_record(photograph(tmp_path / "a.jpg", quality=95))
    whole, reduced = (mapped(mapper, record) for mapper in mappers())
    assert set(whole) == set(reduced)
    assert whole["image"].shape == reduced["image"].shape == (3, 300, 400)
    difference = (whole["image"].float() - reduced["image"].float()).abs()
    assert 0 < difference.mean() < 1.5
    for field in ("gt_boxes", "gt_classes", "gt_masks"):
        left, right = (getattr(r["instances"], field) for r in (whole, reduced))
        if field == "gt_masks":
            left, right = left.polygons[0][0], right.polygons[0][0]
            assert np.allclose(left, right, atol=1e-3)
        else:
            left, right = getattr(left, "tensor", left), getattr(right, "tensor", right)
            assert torch.allclose(left.float(), right.float(), atol=1e-3)
    assert reduced["width"] == 1200 and reduced["height"] == 900


@pytest.mark.parametrize(
    "least, size",
    [
        ((450, 600), (450, 600)),
        ((226, 100), (450, 600)),
        ((225, 300), (225, 300)),
        ((100, 100), (113, 150)),
    ],
)
def test_no_less_is_decoded_than_asked_for(tmp_path, least, size):
    image, whole = read_reduced_jpeg(photograph(tmp_path / "a.jpg"), "RGB", least)
    assert image.shape == (*size, 3) and whole == (900, 1200)
    assert read_reduced_jpeg(photograph(tmp_path / "a.jpg"), "RGB", (451, 10)) is None


def exif(orientation):
    header = Image.Exif()
    header[0x0112] = orientation
    return header


@pytest.mark.parametrize(
    "name, options, changes, record",
    [
        ("a.png", {}, {}, {}),
        ("a.jpg", {}, {"shortest": 800}, {}),
        ("a.jpg", {}, {"image_format": "YUV-BT.601"}, {}),
        ("a.jpg", {}, {"augmentations": [T.RandomFlip()]}, {}),
        ("a.jpg", {"exif": exif(3)}, {}, {}),
        ("a.jpg", {}, {}, {"height": None, "width": None}),
    ],
)
def test_everything_else_is_read_as_before(tmp_path, name, options, changes, record):
    record = {**make_record(photograph(tmp_path / name, **options)), **record}
    record = {key: value for key, value in record.items() if value is not None}
    whole, reduced = (mapped(mapper, record) for mapper in mappers(**changes))
    assert torch.equal(whole["image"], reduced["image"])
    assert set(whole) == set(reduced)


def test_errors_are_those_of_the_ordinary_mapper(tmp_path):
    _, mapper = mappers()
    path = photograph(tmp_path / "a.jpg")
    with pytest.raises(SizeMismatchError, match="1200 x 900"):
        mapper(make_record(path, width=1100))
    broken = io.BytesIO()
    broken.write((tmp_path / "a.jpg").read_bytes()[:2000])
    (tmp_path / "a.jpg").write_bytes(broken.getvalue())
    with pytest.raises(UnreadableImageError, match="cannot be decoded"):
        mapper(make_record(path))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        mapper(make_record(str(tmp_path / "no.jpg")))


def test_convention_pixels_are_exact_unless_asked_for_speed():
    cfg = get_cfg()
    assert type(train_mapper(cfg)) is DatasetMapper
    cfg.INPUT.REDUCED_DECODE = True
    assert type(train_mapper(cfg)) is ReducedDecodeMapper
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RRPN"
    assert type(train_mapper(cfg)) is RotatedDatasetMapper


def test_rotated_boxes_stay_rotated(tmp_path):
    record = make_record(photograph(tmp_path / "a.jpg"))
    turned = {"bbox": [600, 450, 300, 90, 30], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}
    record["annotations"].append(turned)
    mapper = RotatedDatasetMapper(
        True, augmentations=[T.Resize((450, 600)), T.RandomFlip(1.0)], image_format="BGR"
    )
    instances = mapper(record)["instances"]
    assert isinstance(instances.gt_boxes, RotatedBoxes)
    assert instances.gt_boxes.tensor[1].tolist() == pytest.approx([300, 225, 150, 45, -30])
    upright = instances.gt_boxes.tensor[0].tolist()
    assert upright[:4] == pytest.approx([600 - 210, 157.5, 300, 225])


def inode_of(tensor):
    """Number of the file that a tensor's memory belongs to; "0" if it belongs to none."""
    address = tensor.data_ptr()
    with open("/proc/self/maps") as stream:
        for row in map(str.split, stream):
            start, end = (int(number, 16) for number in row[0].split("-"))
            if start <= address < end:
                return row[4]
    raise AssertionError("the tensor has no memory")


def share_a_list():
    """What every rank does, of two."""
    before = set(os.listdir("/dev/shm"))
    records = [{"number": i, "text": "x" * i} for i in range(2000)]
    dataset = DatasetFromList(records, copy=False, serialize=list_container())
    different = None
    try:
        DatasetFromList(records[comm.get_local_rank() :], serialize=list_container())
    except ValueError as error:
        different = str(error)
    seen = [dataset[i]["number"] for i in (0, 5, -1)], len(dataset), dataset[7]["text"]
    group = comm.get_local_process_group()
    assert comm.all_gather(seen, group) == [([0, 5, 1999], 2000, "x" * 7)] * 2
    inodes = set(comm.all_gather(inode_of(dataset._lst._block), group))
    assert len(inodes) == 1 and inodes != {"0"}, "two copies"
    left = {name for name in set(os.listdir("/dev/shm")) - before if "detectron2" in name}
    assert not left and "different datasets, of [2000, 1999] elements" in different


needs_tables_of_memory = pytest.mark.skipif(
    not os.path.isdir("/dev/shm"), reason="looks at Linux's tables of memory"
)


class TwoThreads:
    """Stands for `comm` in two threads that are the ranks of a machine."""

    def __init__(self):
        self.barrier = threading.Barrier(2, timeout=60)
        self.rank = threading.local()
        self.rows = [None, None]

    def all_gather(self, data, group=None):
        self.rows[self.rank.value] = data
        self.barrier.wait()
        rows = list(self.rows)
        self.barrier.wait()
        return rows

    def run(self, function, rank):
        self.rank.value = rank
        return function()


@pytest.fixture
def two_threads(monkeypatch):
    """Runs a function as two ranks of a machine, in threads."""
    ranks = TwoThreads()
    monkeypatch.setattr(comm, "get_local_size", lambda: 2)
    monkeypatch.setattr(comm, "get_local_process_group", lambda: "this machine")
    monkeypatch.setattr(comm, "get_local_rank", lambda: ranks.rank.value)
    monkeypatch.setattr(comm, "all_gather", ranks.all_gather)

    def run(function):
        with ThreadPoolExecutor(2) as pool:
            return [pool.submit(ranks.run, function, rank) for rank in range(2)]

    return run


@needs_tables_of_memory
def test_ranks_of_a_machine_read_one_copy(two_threads):
    for done in two_threads(share_a_list):
        done.result()


def test_one_rank_of_a_machine_loads_and_the_others_share(two_threads, tmp_path):
    calls = []

    def load():
        calls.append(comm.get_local_rank())
        return [{"number": i} for i in range(50)]

    ranks = two_threads(lambda: load_once_per_machine(load, ["loaded_once"]))
    datasets = [done.result() for done in ranks]
    assert calls == [0]
    assert [len(d) for d in datasets] == [50, 50] and datasets[1][-1] == {"number": 49}
    assert datasets[0]._lst._block.data_ptr() != 0
    assert list(datasets[1])[3:5] == [{"number": 3}, {"number": 4}]


def test_what_is_no_list_is_loaded_by_each_rank(two_threads):
    ranks = two_threads(lambda: load_once_per_machine(lambda: iter("ab"), ["iterable"]))
    assert [list(done.result()) for done in ranks] == [["a", "b"]] * 2


def test_a_failed_load_ends_all_ranks(two_threads):
    def load():
        raise ValueError("The file 'a.json' is broken.")

    first, second = two_threads(lambda: load_once_per_machine(load, ["broken"]))
    with pytest.raises(ValueError, match=r"a\.json"):
        first.result()
    with pytest.raises(RuntimeError, match=r"cannot load the dataset.*'a\.json' is broken\."):
        second.result()


def loaders_of_a_coco_file(path, log, check):
    """What every rank does, of two: loaders of a config. Who parses writes its number."""
    parse = coco._parse

    def counted(json_file):
        with open(log, "a") as stream:
            stream.write(f"{comm.get_rank()}{Path(json_file).stem} ")
        return parse(json_file)

    coco._parse = counted
    for split in ("train", "test"):
        register_coco_instances(split, {}, str(path / f"{split}.json"), str(path))
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("train",), ("test",)
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.CHECK = 0, check
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.1
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.OUTPUT_DIR = str(path / "output")
    batch = next(iter(build_detection_train_loader(cfg)))
    tests = build_detection_test_loader(cfg, "test")
    mine = [record["image_id"] for batch in tests for record in batch]
    names = [MetadataCatalog.get(split).thing_classes for split in ("train", "test")]
    found = comm.all_gather((names, batch[0]["instances"].gt_classes.tolist(), mine))
    assert found == [([["cat"]] * 2, [0], [1]), ([["cat"]] * 2, [0], [2])], found
    if comm.get_rank() == 1:  # nobody waits for the other one
        assert len(build_detection_test_loader(cfg, "test").dataset) == 2
    comm.synchronize()


@pytest.mark.slow
@pytest.mark.parametrize("check", ["", "report", "skip"])
def test_one_process_of_a_machine_parses_and_the_others_share(tmp_path, monkeypatch, check):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 4, 20, 20], "iscrowd": 0}
    for split in ("train", "test"):
        images = [
            {"id": i, "file_name": f"{split}{i}.png", "width": 64, "height": 48} for i in (1, 2)
        ]
        for image in images:
            noise = np.random.default_rng(len(split) + image["id"]).integers(0, 255, (48, 64, 3))
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / image["file_name"])
        content = {
            "images": images,
            "annotations": [{**box, "area": 400, "segmentation": [[4, 4, 24, 4, 24, 24]]}],
            "categories": [{"id": 3, "name": "cat"}],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    log = tmp_path / "log"
    launch(loaders_of_a_coco_file, 2, dist_url="auto", args=(tmp_path, log, check))
    parsed = log.read_text().split()
    assert [who for who in parsed if who.endswith("train")] == ["0train"]
    # Once for the loaders of both, once more for that of rank 1 alone; a check compares images.
    assert len([who for who in parsed if who.endswith("test")]) == (3 if check else 2)
    assert "1test" in parsed


@pytest.mark.slow
@needs_tables_of_memory
def test_processes_of_a_machine_read_one_copy():
    launch(share_a_list, 2, dist_url="auto")


def test_a_single_process_shares_nothing():
    assert list_container() is True
