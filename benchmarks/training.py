"""How long does a training step of Mask R-CNN R50-FPN take on a CPU, beside torchvision's?

Both train the same parts (the stem and the first stage are frozen, and so is batch
normalization) on the same pictures with the same boxes and masks, from random weights, in turns.
Peak memory comes from a process of its own for each. At last a `DefaultTrainer` reads photographs
from disk, and says which share of its steps it waited for data.

    python benchmarks/training.py --size 320 416 --batch 2 --steps 5
"""

from __future__ import annotations

import argparse
import logging
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
OBJECTS = 8
CLASSES = 80

Step = Callable[[], dict[str, float]]


def pictures(count: int, size: tuple[int, int]) -> list[dict[str, torch.Tensor]]:
    """Noise with rectangles: image (3, H, W) in 0..255, boxes, classes, masks."""
    height, width = size
    generator = torch.Generator().manual_seed(0)
    result = []
    for _ in range(count):
        image = torch.rand(3, height, width, generator=generator) * 255
        corner = torch.rand(OBJECTS, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        extent = (0.1 + 0.3 * torch.rand(OBJECTS, 2, generator=generator)) * min(size)
        boxes = torch.cat([corner, corner + extent], dim=1).round()
        masks = torch.zeros(OBJECTS, height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
        classes = torch.randint(CLASSES, (OBJECTS,), generator=generator)
        result.append({"image": image, "boxes": boxes, "masks": masks, "classes": classes})
    return result


def step_of(compute: Callable[[], dict[str, torch.Tensor]], optimizer: Any) -> Step:
    def step() -> dict[str, float]:
        losses = compute()
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        return {name: value.item() for name, value in losses.items()}

    return step


def tame(model: torch.nn.Module, last_norm: str) -> None:
    """Keep the activations of random weights small: normalization is frozen and does not."""
    for name, value in model.named_buffers():
        if name.endswith(f"{last_norm}.weight"):
            value.fill_(0.2)


def ours(count: int, size: tuple[int, int], fast: bool = True, compiled: bool = False) -> Step:
    from detectron2 import model_zoo
    from detectron2.engine._prepare_model import prepare_model
    from detectron2.modeling import build_model
    from detectron2.solver import build_optimizer
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    cfg = model_zoo.get_config(CONFIG)
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.BASE_LR = 1e-6
    torch.manual_seed(0)
    model = build_model(cfg).train()
    tame(model, "conv3.norm")
    cfg.TRAINING.FAST_CONVOLUTIONS = fast
    cfg.TRAINING.COMPILE.ENABLED = compiled
    prepare_model(model, cfg.TRAINING)  # as DefaultTrainer does
    batch = []
    for one in pictures(count, size):
        instances = Instances(size)
        instances.gt_boxes = Boxes(one["boxes"])
        instances.gt_classes = one["classes"]
        instances.gt_masks = BitMasks(one["masks"])
        batch.append({"image": one["image"], "instances": instances})

    def compute() -> dict[str, torch.Tensor]:
        with EventStorage():
            return model(batch)

    return step_of(compute, build_optimizer(cfg, model))


def torchvision(count: int, size: tuple[int, int]) -> Step:
    from torchvision.models import resnet50
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops.misc import FrozenBatchNorm2d

    torch.manual_seed(0)
    backbone = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 3)
    # The pictures are not resized; the loss samples and proposals are those of our config.
    model = MaskRCNN(
        backbone,
        CLASSES + 1,
        min_size=min(size),
        max_size=max(size),
        rpn_post_nms_top_n_train=1000,
    ).train()
    tame(model, "bn3")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4)
    images = [one["image"] / 255 for one in pictures(count, size)]
    targets = [
        {"boxes": one["boxes"], "labels": one["classes"] + 1, "masks": one["masks"].byte()}
        for one in pictures(count, size)
    ]
    return step_of(lambda: model(images, targets), optimizer)


SUBJECTS: dict[str, Callable[[int, tuple[int, int]], Step]] = {
    "detectron2": ours,
    "detectron2, plain": lambda count, size: ours(count, size, fast=False),
    "detectron2, compiled": lambda count, size: ours(count, size, compiled=True),
    "torchvision": torchvision,
}


def write_photographs(folder: Path, count: int = 16) -> list[dict[str, Any]]:
    """JPEG files of 640x480 with polygons, as records of a dataset."""
    from PIL import Image

    from detectron2.structures import BoxMode

    records: list[dict[str, Any]] = []
    for number, one in enumerate(pictures(count, (480, 640))):
        path = str(folder / f"{number}.jpg")
        smooth = torch.nn.functional.avg_pool2d(one["image"], 5, stride=1, padding=2)
        Image.fromarray(smooth.byte().permute(1, 2, 0).numpy()).save(path, quality=90)
        annotations = [
            {
                "bbox": [x0, y0, x1, y1],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": int(label),
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            }
            for (x0, y0, x1, y1), label in zip(one["boxes"].tolist(), one["classes"], strict=True)
        ]
        size = {"height": 480, "width": 640}
        records.append({"file_name": path, "image_id": number, **size, "annotations": annotations})
    return records


def data_wait(arguments: argparse.Namespace, workers: int) -> float:
    """Share of the time of a training that it waited for its loader."""
    from detectron2 import model_zoo
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.engine import DefaultTrainer

    logging.disable(logging.INFO)
    name = f"photographs_{workers}"
    with tempfile.TemporaryDirectory() as folder:
        records = write_photographs(Path(folder))
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).thing_classes = [str(number) for number in range(CLASSES)]
        cfg = model_zoo.get_config(CONFIG)
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "cpu", "", folder
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
        cfg.DATALOADER.NUM_WORKERS = workers
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (arguments.size[0],), 1333
        cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH = 1e-6, arguments.batch
        cfg.SOLVER.MAX_ITER = cfg.SOLVER.WARMUP_ITERS = arguments.steps + 3
        cfg.SOLVER.STEPS = ()
        trainer = DefaultTrainer(cfg)
        tame(trainer.model, "conv3.norm")
        trainer.train()
    seconds = {key: trainer.storage.history(key).values() for key in ("time", "data_time")}
    first = seconds["time"][0][1]  # the first steps are not timed
    waited, whole = (
        sum(value for value, at in seconds[key] if at >= first) for key in ("data_time", "time")
    )
    return waited / whole


def peak_memory(name: str, arguments: argparse.Namespace) -> float:
    """MiB at most of a process that makes two steps."""
    command = [sys.executable, __file__, "--only", name, "--batch", str(arguments.batch)]
    command += ["--size", *map(str, arguments.size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def profile(name: str, arguments: argparse.Namespace) -> None:
    step = SUBJECTS[name](arguments.batch, tuple(arguments.size))
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as result:
        step()
    print(result.key_averages().table(sort_by="self_cpu_time_total", row_limit=18))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=[320, 416], help="height, width")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    subjects = [name for name in SUBJECTS if "compiled" not in name]
    parser.add_argument("--subjects", choices=SUBJECTS, nargs="+", default=subjects)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="of the loader")
    parser.add_argument("--only", choices=SUBJECTS, help="two steps of one, print its peak memory")
    parser.add_argument("--profile", choices=SUBJECTS, help="operators of a step of one")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu counts the seconds of all threads, which other programs disturb less",
    )
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    size = tuple(arguments.size)
    if arguments.profile:
        return profile(arguments.profile, arguments)
    if arguments.only:
        step = SUBJECTS[arguments.only](arguments.batch, size)
        step(), step()
        # Not getrusage: a started process inherits the peak of the one that started it.
        status = Path("/proc/self/status").read_text()
        print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        return None
    steps = {name: SUBJECTS[name](arguments.batch, size) for name in arguments.subjects}
    for step in steps.values():
        step()  # kernels are compiled, memory is taken
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.steps):
        for name, step in steps.items():
            start = clock()
            losses = step()
            seconds[name].append(clock() - start)
            print(f"  {name}: {seconds[name][-1]:.2f} s", flush=True)
            assert np.isfinite(sum(losses.values())), (name, losses)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    print(f"{arguments.batch} images of {size[0]}x{size[1]}, median of {arguments.steps} steps")
    reference = statistics.median(seconds.get("torchvision", [math.nan]))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:32} {median:6.2f} s/step  {reference / median:4.2f}x"
            f"  peak {peak_memory(name, arguments):6.0f} MiB"
        )
    for workers in arguments.workers:
        share = data_wait(arguments, workers)
        print(f"with {workers} loader processes {share:.1%} of a step are spent waiting for data")
    return None


if __name__ == "__main__":
    main()
