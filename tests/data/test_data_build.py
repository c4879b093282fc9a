import copy
import itertools
import logging
import os
import pickle
import signal
import subprocess
import uuid

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, SequentialSampler

import detectron2.data.build as build
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MetadataCatalog,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    load_proposals_into_dataset,
    print_instances_class_histogram,
)
from detectron2.data.benchmark import DataLoaderBenchmark, iter_benchmark
from detectron2.data.quarantine import TooManyUnreadableSamples
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import BoxMode
from detectron2.utils import logger as logging_helpers

RECORDS = [
    {"image_id": 0, "annotations": [{"iscrowd": 1, "category_id": 0, "keypoints": [1, 1, 2]}]},
    {"image_id": 1, "annotations": []},
    {"image_id": 2, "annotations": [{"iscrowd": 0, "category_id": 1, "keypoints": [1, 1, 2] * 2}]},
    {"image_id": 3, "annotations": [{"category_id": 0, "keypoints": [1, 1, 0]}]},
]


@pytest.fixture
def register():
    names = []

    def add(load, **metadata):
        name = f"built_{uuid.uuid4().hex}"
        names.append(name)
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(**metadata)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def name(register):
    return register(lambda: copy.deepcopy(RECORDS), thing_classes=["a", "b"])


@pytest.fixture
def images(tmp_path):
    records = []
    for i in range(6):
        h, w = (40, 60) if i % 2 else (60, 40)
        pixels = np.random.default_rng(i).integers(0, 256, (h, w, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        box = {"bbox": [5.0, 5, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": i % 2}
        records.append(
            {
                "file_name": str(tmp_path / f"{i}.png"),
                "height": h,
                "width": w,
                "image_id": i,
                "annotations": [{**box, "iscrowd": 0}],
            }
        )
    return records


def ids(records):
    return [record["image_id"] for record in records]


# -- records


def test_filters():
    assert ids(build.filter_images_with_only_crowd_annotations(RECORDS)) == [2, 3]
    assert ids(build.filter_images_with_few_keypoints(RECORDS, 1)) == [0, 2]
    assert ids(build.filter_images_with_few_keypoints(RECORDS, 2)) == [2]


def test_datasets_are_loaded_joined_and_filtered(name):
    assert ids(get_detection_dataset_dicts(name)) == [2, 3]
    assert ids(get_detection_dataset_dicts([name, name], filter_empty=False)) == [0, 1, 2, 3] * 2
    assert ids(get_detection_dataset_dicts((name,), min_keypoints=2)) == [2]


def test_no_names_are_an_error():
    with pytest.raises(AssertionError, match="DATASETS.TRAIN"):
        get_detection_dataset_dicts([])


def test_a_dataset_without_images_is_named(register):
    empty = register(list)
    with pytest.raises(ValueError, match=f"'{empty}' has no images"):
        get_detection_dataset_dicts(empty)


def test_a_dataset_without_annotations_says_how_to_keep_them(register):
    name = register(
        lambda: [{"image_id": 1, "annotations": []}], thing_classes=["a"], json_file="pets.json"
    )
    with pytest.raises(ValueError, match=rf"'{name}' \(pets\.json\).*FILTER_EMPTY_ANNOTATIONS"):
        get_detection_dataset_dicts(name)
    assert len(get_detection_dataset_dicts(name, filter_empty=False)) == 1


def test_datasets_with_other_classes_do_not_mix(name, register):
    other = register(lambda: copy.deepcopy(RECORDS), thing_classes=["a", "c"])
    with pytest.raises(ValueError, match="thing_classes"):
        get_detection_dataset_dicts([name, other])
    assert len(get_detection_dataset_dicts([name, other], check_consistency=False)) == 4


def test_datasets_that_are_objects_are_returned_as_they_are(register):
    class Squares(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return i * i

    first, second = register(Squares), register(Squares)
    assert isinstance(get_detection_dataset_dicts(first), Squares)
    assert list(get_detection_dataset_dicts([first, second])) == [0, 1, 4, 0, 1, 4]


def test_the_histogram_counts_objects_but_no_crowds(caplog):
    logging_helpers._times_seen.clear()
    with caplog.at_level(logging.INFO):
        print_instances_class_histogram(RECORDS, ["first", "second of a long name"])
    assert "first" in caplog.text and "second of a.." in caplog.text
    rows = [
        [c.strip() for c in line.split("|")] for line in caplog.text.splitlines() if "|" in line
    ]
    assert ["", "first", "1", "second of a..", "1", ""] in rows
    assert ["", "total", "2", "", "", ""] in rows


@pytest.mark.parametrize("category", [-1, 2, 90])
def test_a_category_beyond_the_classes_names_the_file(category):
    record = {"file_name": "x.jpg", "annotations": [{"category_id": category}]}
    with pytest.raises(ValueError, match=rf"'x\.jpg' has category_id {category}.*2 classes"):
        print_instances_class_histogram([record], ["a", "b"])


# -- proposals


def write_proposals(path, **changes):
    content = {
        "ids": [3, 2, 1, 0],
        "boxes": [np.arange(12.0).reshape(3, 4) + i for i in range(4)],
        "objectness_logits": [np.array([0.1, 0.9, 0.5]) + i for i in range(4)],
        "bbox_mode": BoxMode.XYXY_ABS,
        **changes,
    }
    path.write_bytes(pickle.dumps({k: v for k, v in content.items() if v is not None}))
    return str(path)


def test_proposals_come_by_image_and_score(tmp_path):
    file = write_proposals(tmp_path / "p.pkl")
    records = load_proposals_into_dataset(copy.deepcopy(RECORDS), file)
    assert records[0]["proposal_objectness_logits"].tolist() == pytest.approx([3.9, 3.5, 3.1])
    assert records[0]["proposal_boxes"][:, 0].tolist() == [7, 11, 3]
    assert records[0]["proposal_bbox_mode"] == BoxMode.XYXY_ABS


def test_convention_proposal_files_of_the_old_detectron_are_read(tmp_path):
    file = write_proposals(
        tmp_path / "p.pkl",
        ids=None,
        objectness_logits=None,
        bbox_mode=None,
        indexes=[0, 1, 2, 3],
        scores=[np.zeros(3)] * 4,
    )
    records = load_proposals_into_dataset(copy.deepcopy(RECORDS), file)
    assert records[2]["proposal_boxes"].shape == (3, 4)


def test_a_proposal_file_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("code ran",)

    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"ids": Evil()}))
    with pytest.raises(ValueError, match=r"p\.pkl'.*builtins\.print"):
        load_proposals_into_dataset([], str(tmp_path / "p.pkl"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ids": None}, "lacks ids"),
        ({"ids": [9, 8, 7, 6]}, "no proposals for image_id 0"),
        ({"ids": [1]}, "differ in length"),
    ],
)
def test_a_proposal_file_that_does_not_fit_is_explained(tmp_path, changes, message):
    file = write_proposals(tmp_path / "p.pkl", **changes)
    with pytest.raises(ValueError, match=message):
        load_proposals_into_dataset(copy.deepcopy(RECORDS), file)


def test_every_dataset_needs_its_proposal_file(name):
    with pytest.raises(AssertionError, match="1 datasets need as many"):
        get_detection_dataset_dicts(name, proposal_files=[])


# -- loaders


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last, batches", [(True, 2), (False, 3)])
def test_batches_of_a_dataset(workers, drop_last, batches):
    loader = build_batch_data_loader(
        list(range(8)),
        SequentialSampler(range(8)),
        3,
        num_workers=workers,
        drop_last=drop_last,
    )
    assert len(loader) == batches
    assert list(loader)[:2] == [[0, 1, 2], [3, 4, 5]]


def test_a_collate_function_makes_the_batch():
    for grouping in (False, True):
        elements = [{"width": 1, "height": 2, "i": i} for i in range(6)]
        loader = build_batch_data_loader(
            elements,
            SequentialSampler(elements),
            2,
            aspect_ratio_grouping=grouping,
            collate_fn=lambda batch: sum(e["i"] for e in batch),
        )
        assert list(loader) == [1, 5, 9]


@pytest.mark.parametrize(
    "options", [{"total_batch_size": 0}, {"total_batch_size": 3, "single_gpu_batch_size": 2}]
)
def test_impossible_batch_sizes_are_explained(options):
    with pytest.raises(ValueError, match="batch"):
        build_batch_data_loader([1], None, **options)


def test_the_batch_is_split_over_processes(monkeypatch):
    monkeypatch.setattr(build, "get_world_size", lambda: 4)
    loader = build_batch_data_loader(list(range(8)), SequentialSampler(range(8)), 8)
    assert loader.batch_size == 2
    with pytest.raises(ValueError, match="multiple of the number of processes, which is 4"):
        build_batch_data_loader([1], None, 6)
    assert (
        build_batch_data_loader([1], SequentialSampler([1]), 0, single_gpu_batch_size=5).batch_size
        == 5
    )


def seeds_of_workers(seed):
    loader = build_batch_data_loader(
        DrawnNumbers(), None, 1, num_workers=2, seed=seed, collate_fn=list
    )
    return sorted(itertools.chain.from_iterable(loader))


class DrawnNumbers(IterableDataset):
    def __iter__(self):
        yield float(np.random.rand()), float(torch.rand(1))


def test_workers_draw_different_numbers_fixed_by_the_seed():
    first = seeds_of_workers(7)
    assert len(set(first)) == 2 and seeds_of_workers(7) == first and seeds_of_workers(8) != first


def test_a_train_loader_never_ends_and_groups(images):
    loader = build_detection_train_loader(
        images, mapper=lambda r: r, sampler=TrainingSampler(6, seed=0), total_batch_size=2
    )
    for batch in itertools.islice(loader, 10):
        assert len({r["width"] > r["height"] for r in batch}) == 1


def test_a_train_loader_without_mapper_or_sampler():
    loader = build_detection_train_loader(
        list(range(5)), mapper=None, total_batch_size=5, aspect_ratio_grouping=False
    )
    assert sorted(next(iter(loader))) == [0, 1, 2, 3, 4]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(6))


def test_iterable_datasets_have_no_sampler():
    options = {"mapper": lambda v: v * 10, "total_batch_size": 2, "aspect_ratio_grouping": False}
    assert list(build_detection_train_loader(Stream(), **options)) == [[0, 10], [20, 30], [40, 50]]
    for make in (
        lambda: build_detection_train_loader(Stream(), sampler=SequentialSampler([1]), **options),
        lambda: build_batch_data_loader(Stream(), SequentialSampler([1]), 2),
        lambda: build_detection_test_loader(Stream(), mapper=None, sampler=SequentialSampler([1])),
    ):
        with pytest.raises(ValueError, match="sampler must be None"):
            make()
    assert list(build_detection_test_loader(Stream(), mapper=None, batch_size=4)) == [
        [0, 1, 2, 3], [4, 5],
    ]  # fmt: skip


def test_a_sampler_must_be_a_sampler():
    with pytest.raises(TypeError, match="got list"):
        build_detection_train_loader([1], mapper=None, sampler=[0], total_batch_size=1)


def test_a_broken_image_does_not_end_training(images, tmp_path, caplog):
    (tmp_path / "1.png").write_bytes(b"broken")
    (tmp_path / "2.png").unlink()
    mapper = DatasetMapper(True, augmentations=[], image_format="BGR")
    options = {"mapper": mapper, "total_batch_size": 1, "aspect_ratio_grouping": False}
    loader = build_detection_train_loader(images, **options)
    seen = {batch[0]["image_id"] for batch in itertools.islice(loader, 40)}
    assert seen == {0, 3, 4, 5}
    assert "1.png" in caplog.text and "2.png" in caplog.text
    strict = build_detection_train_loader(images, unreadable_budget=0, **options)
    with pytest.raises(TooManyUnreadableSamples, match="more than the 0"):
        list(itertools.islice(strict, 40))


def test_a_broken_image_ends_an_evaluation(images, tmp_path):
    (tmp_path / "1.png").write_bytes(b"broken")
    mapper = DatasetMapper(False, augmentations=[], image_format="BGR")
    with pytest.raises(OSError, match=r"1\.png"):
        list(build_detection_test_loader(images, mapper=mapper))


@pytest.fixture
def cfg(images, register):
    cfg = get_cfg()
    name = register(lambda: copy.deepcopy(images), thing_classes=["a", "b"])
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATASETS.TEST = (name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.INPUT.MIN_SIZE_TRAIN = (30,)
    cfg.INPUT.MIN_SIZE_TEST = 30
    return cfg


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_a_train_loader_from_a_config(cfg, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.3
    batch = next(iter(build_detection_train_loader(cfg)))
    assert len(batch) == 2 and batch[0]["image"].shape[0] == 3 and len(batch[0]["instances"]) == 1
    own = build_detection_train_loader(cfg, mapper=lambda r: {**r, "mine": 1})
    assert next(iter(own))[0]["mine"] == 1


def test_an_unknown_sampler_lists_the_known(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "nope"
    with pytest.raises(ValueError, match="'nope'.*RepeatFactorTrainingSampler"):
        build_detection_train_loader(cfg)


def test_a_sampler_can_be_added_to_the_table(cfg, monkeypatch):
    monkeypatch.setitem(
        build.TRAIN_SAMPLERS, "Mine", lambda cfg, dataset: SequentialSampler(dataset)
    )
    cfg.DATALOADER.SAMPLER_TRAIN = "Mine"
    loader = build_detection_train_loader(cfg, mapper=lambda r: r)
    assert ids(next(iter(loader))) == [0, 2]  # the first two portraits


class Signals(Dataset):
    """Each sample is asked for after the worker got the signals that end a whole program."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            # By another process: the worker's own end is a SIGTERM of the trainer.
            subprocess.run(["kill", f"-{int(number)}", str(os.getpid())], check=True)
        return {"image": index}


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system names no sender")
def test_workers_go_on_when_every_process_gets_a_signal():
    loader = build_detection_test_loader(Signals(), mapper=None, num_workers=1)
    assert [sample["image"] for (sample,) in loader] == [0, 1, 2, 3]


def test_a_test_loader_from_a_config(cfg):
    loader = build_detection_test_loader(cfg, cfg.DATASETS.TEST[0])
    assert [batch[0]["image_id"] for batch in loader] == list(range(6)) and len(loader) == 6
    assert "instances" not in next(iter(loader))[0]
    mapped = build_detection_test_loader(cfg, list(cfg.DATASETS.TEST), mapper=lambda r: r["width"])
    assert next(iter(mapped)) == [40]


def test_convention_module_globals_can_be_replaced(cfg, monkeypatch, images):
    calls = []

    def mine(names, **options):
        calls.append((tuple(names), sorted(options)))
        return images[:2]

    monkeypatch.setattr("detectron2.data.build.get_detection_dataset_dicts", mine)
    build_detection_train_loader(cfg, mapper=lambda r: r)
    assert len(build_detection_test_loader(cfg, "any")) == 2
    assert [names for names, _ in calls] == [cfg.DATASETS.TRAIN, ("any",)]


def test_a_registered_iterable_dataset_from_a_config(cfg, register):
    cfg.DATASETS.TRAIN = (register(Stream),)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    assert list(build_detection_train_loader(cfg, mapper=lambda v: v)) == [[0, 1], [2, 3], [4, 5]]


def test_user_code_of_fifteen_lines_trains_at_once(images, register, cfg):
    """The balloon tutorial: a function that returns dictionaries, and that is all."""

    def balloons():
        for record in images:
            for annotation in record["annotations"]:
                annotation["segmentation"] = [[5.0, 5, 25, 5, 25, 25]]
                annotation["category_id"] = 0
        return images

    cfg.DATASETS.TRAIN = (register(balloons, thing_classes=["balloon"]),)
    cfg.MODEL.MASK_ON = True
    batch = next(iter(build_detection_train_loader(cfg)))
    assert batch[0]["instances"].gt_masks.nonempty().all()


# -- benchmark


def test_the_benchmark_logs_every_stage(images, caplog):
    mapper = DatasetMapper(True, augmentations=[], image_format="BGR")
    benchmark = DataLoaderBenchmark(
        DatasetFromList(images), mapper=mapper, total_batch_size=2, num_workers=1
    )
    with caplog.at_level(logging.INFO, logger="detectron2.data.benchmark"):
        benchmark.benchmark_dataset(3, warmup=1)
        benchmark.benchmark_mapper(3, warmup=1)
        benchmark.benchmark_workers(2, warmup=1)
        benchmark.benchmark_IPC(2, warmup=1)
        benchmark.benchmark_distributed(2, warmup=1)
    lines = [r.getMessage() for r in caplog.records if r.name == "detectron2.data.benchmark"]
    assert len(lines) == 6 and all("iterations/s" in line for line in lines)


def test_a_benchmark_stops_after_its_time():
    mean, seconds = iter_benchmark(itertools.count(), 10**9, warmup=1, max_time_seconds=0.05)
    assert 0 < len(seconds) < 10**9 and mean == pytest.approx(np.mean(seconds))
