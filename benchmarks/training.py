"""How long does a training step of Mask R-CNN R50-FPN take, beside torchvision's?

Both train the same parts (the stem and the first stage are frozen, and so is batch
normalization) on the same pictures with the same boxes and masks, from random weights, in turns.
Peak memory comes from a process of its own for each. At last a `DefaultTrainer` reads photographs
from disk, and says which share of its steps it waited for data.

    python benchmarks/training.py --size 320 416 --batch 2 --steps 5
    python benchmarks/training.py --device cuda --size 800 1344 --batch 16 --steps 20 --amp

"detectron2, trainer" is a step of the trainer as people run it: pictures come from the host, the
next ones are copied ahead, and the losses are recorded and guarded.
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
Subject = Callable[[argparse.Namespace], Step]


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


def step_of(
    compute: Callable[[], dict[str, torch.Tensor]], optimizer: Any, options: argparse.Namespace
) -> Step:
    def step() -> dict[str, float]:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.amp):
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


def our_model(options: argparse.Namespace, fast: bool, compiled: bool) -> tuple[Any, Any]:
    """The model as `DefaultTrainer` prepares it, and its optimizer."""
    from detectron2 import model_zoo
    from detectron2.engine._prepare_model import prepare_model
    from detectron2.modeling import build_model
    from detectron2.solver import build_optimizer

    cfg = model_zoo.get_config(CONFIG)
    cfg.MODEL.DEVICE = options.device
    cfg.SOLVER.BASE_LR = 1e-6
    torch.manual_seed(0)
    model = build_model(cfg).train()
    tame(model, "conv3.norm")
    cfg.TRAINING.FAST_CONVOLUTIONS = fast
    cfg.TRAINING.COMPILE.ENABLED = compiled
    prepare_model(model, cfg.TRAINING, options.amp)
    return model, build_optimizer(cfg, model)


def masks_of(kind: str, picture: dict[str, torch.Tensor]) -> Any:
    """The rectangles of a picture as the mapper makes them: "bitmaps" as they are, "polygons", and
    with INPUT.MASK_FORMAT "bitmask" the small bitmaps of "crops"."""
    from detectron2.structures import BitMasks, PolygonMasks
    from detectron2.structures._cropped_masks import CroppedBitMasks

    if kind == "bitmaps":
        return BitMasks(picture["masks"])
    corners = picture["boxes"][:, [0, 1, 2, 1, 2, 3, 0, 3]].double().numpy()
    polygons = PolygonMasks([[each] for each in corners])
    height, width = picture["image"].shape[1:]
    return polygons if kind == "polygons" else CroppedBitMasks.of_polygons(polygons, height, width)


def our_batch(options: argparse.Namespace) -> list[dict[str, Any]]:
    from detectron2.structures import Boxes, Instances

    size = tuple(options.size)
    batch = []
    for one in pictures(options.batch, size):
        instances = Instances(size)
        instances.gt_boxes = Boxes(one["boxes"])
        instances.gt_classes = one["classes"]
        instances.gt_masks = masks_of(options.masks, one)
        # As the mapper gives it.
        batch.append({"image": one["image"].byte(), "instances": instances})
    return batch


def ours(options: argparse.Namespace, fast: bool = True, compiled: bool = False) -> Step:
    from detectron2.utils.events import EventStorage

    model, optimizer = our_model(options, fast, compiled)
    batch = our_batch(options)

    def compute() -> dict[str, torch.Tensor]:
        with EventStorage():
            return model(batch)

    return step_of(compute, optimizer, options)


def our_trainer(options: argparse.Namespace) -> Step:
    from detectron2.engine import AMPTrainer, SimpleTrainer
    from detectron2.engine._step_guard import StepGuard
    from detectron2.utils.events import EventStorage

    model, optimizer = our_model(options, fast=True, compiled=False)
    batch = our_batch(options)
    loader = iter(lambda: batch, None)
    if options.amp:
        loop = AMPTrainer(model, loader, optimizer, precision=torch.bfloat16)
    else:
        loop = SimpleTrainer(model, loader, optimizer)
    loop.guard = StepGuard(tempfile.gettempdir())
    loop.iter, loop.max_iter, loop.storage = 0, sys.maxsize, EventStorage()

    def step() -> dict[str, float]:
        with loop.storage as storage:
            storage.iter = loop.iter
            loop.run_step()  # raises or skips where a loss is not finite
            loop.iter += 1
            if loop.iter % 20 == 0:
                storage.latest()  # what a writer asks for
        return {}

    return step


def torchvision(options: argparse.Namespace) -> Step:
    from torchvision.models import resnet50
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops.misc import FrozenBatchNorm2d

    size, device = tuple(options.size), options.device
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
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4)
    images = [one["image"] / 255 for one in pictures(options.batch, size)]
    targets = [
        {"boxes": one["boxes"], "labels": one["classes"] + 1, "masks": one["masks"].byte()}
        for one in pictures(options.batch, size)
    ]

    def compute() -> dict[str, torch.Tensor]:
        here = [{name: value.to(device) for name, value in target.items()} for target in targets]
        return model([image.to(device) for image in images], here)

    return step_of(compute, optimizer, options)


SUBJECTS: dict[str, Subject] = {
    "detectron2": ours,
    "detectron2, trainer": our_trainer,
    "detectron2, plain": lambda options: ours(options, fast=False),
    "detectron2, compiled": lambda options: ours(options, compiled=True),
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
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = arguments.device, "", folder
        cfg.SOLVER.AMP.ENABLED, cfg.TRAINING.AMP_DTYPE = arguments.amp, "bfloat16"
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
    """MiB at most of a process that makes two steps: of the GPU, or of the host."""
    command = [sys.executable, __file__, "--only", name, "--batch", str(arguments.batch)]
    command += ["--size", *map(str, arguments.size), "--device", arguments.device]
    command += ["--amp"] if arguments.amp else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def print_own_peak(arguments: argparse.Namespace) -> None:
    step = SUBJECTS[arguments.only](arguments)
    step(), step()
    if arguments.device == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
        return
    # Not getrusage: a started process inherits the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def profile(name: str, arguments: argparse.Namespace) -> None:
    step = SUBJECTS[name](arguments)
    step()
    on_gpu = arguments.device == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
    with torch.profiler.profile(activities=activities) as result:
        step()
    key = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(result.key_averages().table(sort_by=key, row_limit=18))


def now(arguments: argparse.Namespace) -> float:
    """Seconds, when the device has done what was asked of it."""
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return CLOCKS[arguments.clock]()


def machine(arguments: argparse.Namespace) -> str:
    host = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if arguments.device == "cuda":
        host = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}; {host}"
    return f"{host}, torch {torch.__version__}, {'bfloat16' if arguments.amp else 'float32'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=[320, 416], help="height, width")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--amp", action="store_true", help="mixed precision with bfloat16")
    parser.add_argument("--masks", choices=["bitmaps", "polygons", "crops"], default="bitmaps")
    subjects = ["detectron2", "detectron2, plain", "torchvision"]
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
    if arguments.profile:
        return profile(arguments.profile, arguments)
    if arguments.only:
        return print_own_peak(arguments)
    steps = {name: SUBJECTS[name](arguments) for name in arguments.subjects}
    for step in steps.values():
        step()  # kernels are compiled, memory is taken
    print_table(timed(steps, arguments), arguments)
    for workers in arguments.workers:
        share = data_wait(arguments, workers)
        print(f"with {workers} loader processes {share:.1%} of a step are spent waiting for data")
    return None


def timed(steps: dict[str, Step], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each step; the subjects take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.steps):
        for name, step in steps.items():
            start = now(arguments)
            losses = step()
            seconds[name].append(now(arguments) - start)
            print(f"  {name}: {seconds[name][-1]:.2f} s", flush=True)
            assert np.isfinite(sum(losses.values())), (name, losses)
    return seconds


def print_table(seconds: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    height, width = arguments.size
    print(machine(arguments))
    print(f"{arguments.batch} images of {height}x{width}, median of {arguments.steps} steps")
    reference = statistics.median(seconds.get("torchvision", [math.nan]))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:32} {median:6.3f} s/step  {arguments.batch / median:6.2f} images/s"
            f"  {reference / median:4.2f}x  peak {peak_memory(name, arguments):6.0f} MiB"
        )


if __name__ == "__main__":
    main()
