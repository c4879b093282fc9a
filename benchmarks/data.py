"""How many training samples does one data loading worker make, and how much memory does it take?

    python benchmarks/data.py [--images 200] [--rounds 3] [--annotations 1000000] [--only NAME]

Samples: a JPEG of 640 x 480 with 8 objects becomes a tensor of 1067 x 800 with boxes, classes and
masks. `plain` does the same with Pillow and, for bitmaps, pycocotools, one object after the other,
the way one writes it at first. Both run in one worker of a DataLoader; the fastest round counts.

Large photographs: a JPEG of 3000 x 2000 becomes the same kind of sample, decoded whole or no
larger than needed (INPUT.REDUCED_DECODE), with masks and without.

Large list: one worker on a dataset of a million annotations, in random order, and the memory that a
forked worker gains by reading all records once. Ranks: what two of a machine take together. Memory
needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader

from detectron2.data import DatasetFromList, DatasetMapper, MapDataset
from detectron2.data import transforms as T
from detectron2.data.reduced_decode import ReducedDecodeMapper
from detectron2.data.shared_list import list_container
from detectron2.engine import launch
from detectron2.structures import BoxMode
from detectron2.utils import comm

SHORTEST_EDGE = 800
OBJECTS = 8
CORNERS = 25

Record = dict[str, Any]


def make_records(folder: Path, count: int = 20, size: tuple[int, int] = (640, 480)) -> list[Record]:
    """Pictures with as much detail as a photograph (100 KB at 640 x 480) and wavy objects."""
    width, height = size
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        coarse = rng.uniform(0, 255, (12, 16, 3)).astype(np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        noisy = picture + rng.normal(0, 12, picture.shape)
        path = folder / f"{number}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=85)
        records.append(
            {
                "file_name": str(path),
                "height": height,
                "width": width,
                "image_id": number,
                "annotations": [make_annotation(rng) for _ in range(OBJECTS)],
            }
        )
    return records


def make_annotation(rng: np.random.Generator) -> dict[str, Any]:
    x, y, radius = rng.uniform(100, 540), rng.uniform(80, 400), rng.uniform(20, 80)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radii = radius * rng.uniform(0.8, 1.0, CORNERS)
    corners = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    return {
        "bbox": [x - radius, y - radius, 2 * radius, 2 * radius],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": int(rng.integers(80)),
        "iscrowd": 0,
        "segmentation": [corners.round(2).reshape(-1).tolist()],
    }


def our_mapper(mask_format: str) -> DatasetMapper:
    return DatasetMapper(
        True,
        augmentations=[
            T.ResizeShortestEdge((SHORTEST_EDGE,), 1333, "choice"),
            T.RandomFlip(),
        ],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format=mask_format,
    )


def plain_mapper(mask_format: str) -> Callable[[Record], Record]:
    import pycocotools.mask

    def fill(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
        parts = pycocotools.mask.frPyObjects([p.tolist() for p in polygons], height, width)
        return pycocotools.mask.decode(pycocotools.mask.merge(parts)).astype(bool)

    def map_record(record: Record) -> Record:
        record = copy.deepcopy(record)
        image = np.asarray(Image.open(record["file_name"]).convert("RGB"))[:, :, ::-1]
        scale = SHORTEST_EDGE / min(image.shape[:2])
        height, width = (int(side * scale + 0.5) for side in image.shape[:2])
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        image = np.asarray(resized)
        mirrored = np.random.rand() < 0.5
        if mirrored:
            image = np.flip(image, axis=1)
        record["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        boxes, masks, classes = [], [], []
        for annotation in record.pop("annotations"):
            x, y, w, h = annotation["bbox"]
            box = np.array([x, y, x + w, y + h]) * scale
            polygons = [np.asarray(p).reshape(-1, 2) * scale for p in annotation["segmentation"]]
            if mirrored:
                box[[0, 2]] = width - box[[2, 0]]
                for polygon in polygons:
                    polygon[:, 0] = width - polygon[:, 0]
            boxes.append(box)
            flat = [polygon.reshape(-1) for polygon in polygons]
            masks.append(fill(flat, height, width) if mask_format == "bitmask" else flat)
            classes.append(annotation["category_id"])
        record["boxes"] = torch.as_tensor(np.array(boxes), dtype=torch.float32)
        record["classes"] = torch.tensor(classes)
        if mask_format == "bitmask":
            record["masks"] = torch.stack(
                [torch.from_numpy(np.ascontiguousarray(m)) for m in masks]
            )
        else:
            record["masks"] = masks
        return record

    return map_record


def samples_per_second(records: list[Record], mapper: Callable[[Record], Any], count: int) -> float:
    """Rate of one worker, from its second sample on."""
    return rate(DatasetFromList(records * (count // len(records))), mapper, range(count))


def rate(dataset: Any, mapper: Callable[[Record], Any], order: Sequence[int]) -> float:
    mapped = MapDataset(dataset, mapper)
    loader = DataLoader(mapped, batch_size=1, num_workers=1, collate_fn=list, sampler=order)
    iterator = iter(loader)
    next(iterator)
    start = time.perf_counter()
    done = sum(1 for _ in iterator)
    return done / (time.perf_counter() - start)


def throughput(count: int, rounds: int) -> str:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(Path(folder))
        for mask_format in ("polygon", "bitmask"):
            ours, plain = our_mapper(mask_format), plain_mapper(mask_format)
            ours(records[0]), plain(records[0])  # compiled code is loaded before the fork
            rates = [
                [samples_per_second(records, mapper, count) for mapper in (ours, plain)]
                for _ in range(rounds)
            ]
            best = [max(column) for column in zip(*rates)]
            rows.append([mask_format, *best, best[0] / best[1]])
    headers = ["masks", "detectron2, images/s", "plain, images/s", "ratio"]
    return tabulate(rows, headers, floatfmt=".1f")


def large_photographs(count: int, rounds: int) -> str:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(Path(folder), 5, (3000, 2000))
        for masks in (True, False):
            options = {
                "augmentations": [
                    T.ResizeShortestEdge((SHORTEST_EDGE,), 1333, "choice"),
                    T.RandomFlip(),
                ],
                "image_format": "BGR",
                "use_instance_mask": masks,
                "instance_mask_format": "bitmask",
            }
            both = DatasetMapper(True, **options), ReducedDecodeMapper(True, **options)
            for mapper in both:
                mapper(records[0])
            rates = [
                [samples_per_second(records, mapper, count) for mapper in both]
                for _ in range(rounds)
            ]
            best = [max(column) for column in zip(*rates)]
            rows.append(["bitmasks" if masks else "boxes only", *best, best[1] / best[0]])
    headers = ["3000 x 2000", "whole, images/s", "reduced, images/s", "ratio"]
    return tabulate(rows, headers, floatfmt=".1f")


def private_mib() -> float:
    with open("/proc/self/smaps_rollup") as stream:
        return sum(int(line.split()[1]) for line in stream if line.startswith("Private")) / 1024


def memory_of_worker(dataset: Any) -> float:
    """MiB that a forked process gains by reading every record."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        before = private_mib()
        for i in range(len(dataset)):
            dataset[i]
        sender.send(private_mib() - before)

    process = context.Process(target=work)
    process.start()
    gained = receiver.recv()
    process.join()
    return gained


class PlainList:
    """A dataset whose workers read a Python list."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return copy.deepcopy(self.records[index])


def large_list(annotations: int, count: int, rounds: int) -> str:
    """One worker on a dataset of so many annotations, in random order, and what memory it takes."""
    rng = np.random.default_rng(0)
    images = annotations // OBJECTS
    order = rng.permutation(images)[:count].tolist()
    with tempfile.TemporaryDirectory() as folder:
        files = make_records(Path(folder))
        before = private_mib()
        records = [
            {
                **files[i % len(files)],
                "image_id": i,
                "annotations": [make_annotation(rng) for _ in range(OBJECTS)],
            }
            for i in range(images)
        ]
        total = private_mib() - before
        plain = PlainList(records)
        before = private_mib()
        shared = DatasetFromList(records)
        totals = {"plain": total, "ours": private_mib() - before}
        rows = []
        for name, dataset, make in (
            ("plain", plain, plain_mapper),
            ("ours", shared, our_mapper),
        ):
            mapper = make("bitmask")
            mapper(dataset[0])
            rates = [rate(dataset, mapper, order) for _ in range(rounds)]
            rows.append([name, max(rates), totals[name], memory_of_worker(dataset)])
    headers = [
        f"{images * OBJECTS} annotations",
        "images/s of a worker",
        "main process, MiB",
        "each worker adds, MiB",
    ]
    return tabulate(rows, headers, floatfmt=(".0f", ".1f", ".0f", ".0f"))


class MadeRecords(Sequence):
    """Records that are made when they are asked for, so that they take no memory themselves."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.images))]
        if not 0 <= index < self.images:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        annotations = [make_annotation(rng) for _ in range(OBJECTS)]
        return {"file_name": f"images/{index:012d}.jpg", "annotations": annotations}


def memory_of_rank(images: int, shared: bool, folder: str) -> None:
    """Write what this rank's share of the machine's memory grows by, in MiB."""
    before = proportional_mib()
    dataset = DatasetFromList(
        MadeRecords(images), copy=False, serialize=list_container() if shared else True
    )
    for i in range(0, images, 8):
        dataset[i]
    comm.synchronize()
    gained = proportional_mib() - before
    (Path(folder) / str(comm.get_rank())).write_text(str(gained))
    comm.synchronize()


def proportional_mib() -> float:
    """Memory of this process; what several share counts in parts that add up to one."""
    with open("/proc/self/smaps_rollup") as stream:
        return sum(int(line.split()[1]) for line in stream if line.startswith("Pss:")) / 1024


def memory_of_ranks(annotations: int, ranks: int = 2) -> str:
    rows = []
    for name, shared in (("a list for each rank", False), ("RankSharedList", True)):
        with tempfile.TemporaryDirectory() as folder:
            arguments = (annotations // OBJECTS, shared, folder)
            launch(memory_of_rank, ranks, dist_url="auto", args=arguments)
            total = sum(float(path.read_text()) for path in Path(folder).iterdir())
        rows.append([name, total])
    headers = [f"{annotations} annotations", f"{ranks} ranks together, MiB"]
    return tabulate(rows, headers, floatfmt=".0f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--annotations", type=int, default=1_000_000)
    parts = {
        "samples": lambda: throughput(options.images, options.rounds),
        "photographs": lambda: large_photographs(options.images // 4, options.rounds),
        "list": lambda: large_list(options.annotations, options.images, options.rounds),
        "ranks": lambda: memory_of_ranks(options.annotations),
    }
    parser.add_argument("--only", choices=parts, help="one of the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, measure in parts.items():
        if options.only in (None, name):
            print(measure(), end="\n\n")


if __name__ == "__main__":
    main()
