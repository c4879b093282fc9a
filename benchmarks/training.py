"""How long does a training step of Mask R-CNN R50-FPN take on a CPU, beside torchvision's?

Both train the same parts (the stem and the first stage are frozen, and so is batch
normalization) on the same pictures with the same boxes and masks, from random weights, in turns.
Peak memory comes from a process of its own for each.

    python benchmarks/training.py --size 320 416 --batch 2 --steps 5
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
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


def ours(count: int, size: tuple[int, int], channels_last: bool = False, fast: bool = True) -> Step:
    from detectron2 import model_zoo
    from detectron2.engine.training_blocks import speed_up_convolutions
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
    if fast:  # as DefaultTrainer does
        speed_up_convolutions(model)
    if channels_last:
        model.to(memory_format=torch.channels_last)
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
    "detectron2, direct convolutions": lambda count, size: ours(count, size, fast=False),
    "detectron2, channels last": lambda count, size: ours(count, size, channels_last=True),
    "torchvision": torchvision,
}


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
    steps = {name: make(arguments.batch, size) for name, make in SUBJECTS.items()}
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
    reference = statistics.median(seconds["torchvision"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:32} {median:6.2f} s/step  {reference / median:4.2f}x"
            f"  peak {peak_memory(name, arguments):6.0f} MiB"
        )
    return None


if __name__ == "__main__":
    main()
