"""How does the cost of Mask R-CNN R50-FPN grow with image size, proposals, batch and classes?

Each factor is doubled while the others stay; the exponent is the slope of log(time) over
log(factor), by least squares: 1 is linear, 0 is free. Times are the best of several runs, in turns.

    python benchmarks/scaling.py [--side 320] [--repeat 3] [--threads 2] [--clock wall|cpu]
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from inference import CLOCKS, CONFIG, spread_weights
from tabulate import tabulate
from torch import nn

from detectron2 import model_zoo
from detectron2.engine.inference import speed_up
from detectron2.modeling import build_model

Case = tuple[int, Callable[[], Any]]


def model(**changes: Any) -> nn.Module:
    """The optimized detector, with config keys (dots written as two underscores) changed."""
    cfg = model_zoo.get_config(CONFIG)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.PIXEL_STD = [57.375, 57.12, 58.395]  # random weights want inputs near 1
    cfg.merge_from_list(
        [part for key, value in changes.items() for part in (key.replace("__", "."), value)]
    )
    built = build_model(cfg).eval()
    spread_weights(built)
    return speed_up(built)


def image(side: int, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.rand(3, side, side, generator=generator) * 255}


def cases(side: int) -> dict[str, list[Case]]:
    """For each factor its values and what to run at them."""
    plain = model()
    sizes = [(s * s, lambda s=s: plain([image(s)])) for s in (side, side * 2, side * 3)]
    batches = [(n, lambda n=n: plain([image(side, i) for i in range(n)])) for n in (1, 2, 4)]
    proposals = []
    for count in (250, 500, 1000, 2000):
        limited = model(MODEL__RPN__POST_NMS_TOPK_TEST=count, MODEL__RPN__PRE_NMS_TOPK_TEST=2000)
        proposals.append((count, lambda m=limited: m([image(side)])))
    classes = []
    for count in (20, 80, 320, 1280):
        wide = model(MODEL__ROI_HEADS__NUM_CLASSES=count)
        classes.append((count, lambda m=wide: m([image(side)])))
    return {"pixels": sizes, "images": batches, "proposals": proposals, "classes": classes}


def best_times(group: list[Case], repeat: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each case, the best of `repeat` turns after one to warm up."""
    times = [[] for _ in group]
    for _ in range(repeat + 1):
        for seconds, (_, run) in zip(times, group):
            start = clock()
            run()
            seconds.append(clock() - start)
    return [min(seconds[1:]) for seconds in times]


def exponent(values: list[int], times: list[float]) -> float:
    """Slope of log(times) over log(values)."""
    return float(np.polyfit(np.log(values), np.log(times), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=320, help="pixels of the smallest image")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    with torch.inference_mode():
        for factor, group in cases(args.side).items():
            times = best_times(group, args.repeat, CLOCKS[args.clock])
            values = [value for value, _ in group]
            shown = ", ".join(f"{v}: {1000 * t:.0f}" for v, t in zip(values, times))
            rows.append([factor, shown, f"{exponent(values, times):.2f}"])
    print(f"Mask R-CNN R50-FPN, fp32, {args.threads} threads, {args.clock} ms")
    print(tabulate(rows, headers=["factor", "value: time", "exponent"]))


if __name__ == "__main__":
    main()
