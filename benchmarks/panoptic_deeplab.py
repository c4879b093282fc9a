"""How long Panoptic-DeepLab's post-processing takes, beside its definition written plainly.

The definition measures the distance of every pixel to every centre, and goes through the things
one by one. Both find the same segments; the script says so. The scene is drawn: `--things`
squares on four kinds of stuff, at the size of a picture of Cityscapes.

    python benchmarks/panoptic_deeplab.py --things 30
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation

HEIGHT, WIDTH = 1024, 2048
STUFF, THINGS, DIVISOR = 4, frozenset(range(4, 12)), 1000


def scene(things: int) -> tuple[Tensor, Tensor, Tensor]:
    """Classes (1, H, W), centre probabilities (1, H, W) and offsets (2, H, W)."""
    draw = torch.Generator().manual_seed(0)
    classes = (torch.arange(HEIGHT) * STUFF // HEIGHT)[None, :, None].repeat(1, 1, WIDTH)
    heatmap = torch.rand(1, HEIGHT, WIDTH, generator=draw) * 0.05
    offsets = torch.randn(2, HEIGHT, WIDTH, generator=draw) * 3
    for i in range(things):
        side = int(torch.randint(40, 200, (1,), generator=draw))
        top = int(torch.randint(0, HEIGHT - side, (1,), generator=draw))
        left = int(torch.randint(0, WIDTH - side, (1,), generator=draw))
        y, x = top + side // 2, left + side // 2
        rows, columns = slice(top, top + side), slice(left, left + side)
        classes[0, rows, columns] = STUFF + i % len(THINGS)
        offsets[0, rows, columns] += y - torch.arange(top, top + side)[:, None]
        offsets[1, rows, columns] += x - torch.arange(left, left + side)
        heatmap[0, y, x] = 0.5 + 0.4 * i / things
    return classes, heatmap, offsets


def plain(classes: Tensor, heatmap: Tensor, offsets: Tensor) -> Tensor:
    """The definition."""
    peak = F.max_pool2d(heatmap, 7, stride=1, padding=3)
    centers = ((heatmap == peak) & (heatmap > 0.1))[0].nonzero()
    positions = torch.stack(
        torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    )
    pointed_at = (positions + offsets).flatten(1).T  # (H * W, 2)
    distances = (centers[:, None] - pointed_at).norm(dim=2)  # (K, H * W)
    owner = distances.argmin(dim=0).view(1, HEIGHT, WIDTH) + 1
    things = torch.zeros_like(classes, dtype=torch.bool)
    for label in THINGS:
        things |= classes == label
    owner *= things
    result = torch.full_like(classes, -1)
    seen = dict.fromkeys(THINGS, 0)
    for number in owner.unique().tolist():
        if number:
            mask = owner == number
            label = int(classes[mask].mode().values)
            seen[label] += 1
            result[mask] = label * DIVISOR + seen[label]
    for label in range(STUFF):
        mask = (classes == label) & ~things
        if mask.sum() >= 2048:
            result[mask] = label * DIVISOR
    return result


def ours(classes: Tensor, heatmap: Tensor, offsets: Tensor) -> Tensor:
    return get_panoptic_segmentation(classes, heatmap, offsets, THINGS, DIVISOR, 2048, -1)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--things", type=int, default=30)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    inputs = scene(args.things)
    best = {}
    results = {}
    for name, run in (("plain", plain), ("ours", ours)) * args.repeat:
        start = time.process_time()
        results[name] = run(*inputs)
        seconds = time.process_time() - start
        best[name] = min(best.get(name, seconds), seconds)
    same = (results["plain"] == results["ours"]).float().mean().item()
    share = (inputs[0] >= STUFF).float().mean().item()
    print(f"{HEIGHT} x {WIDTH}, {args.things} things on {share:.0%} of the pixels")
    for name, seconds in best.items():
        print(f"{name:6} {seconds * 1000:8.0f} ms of CPU")
    print(f"{best['plain'] / best['ours']:.1f} times as fast; {same:.4%} of the ids are the same")


if __name__ == "__main__":
    main()
