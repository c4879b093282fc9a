"""How fast are the structures on the training and inference path, on a CPU?

Each row times ours against the plain way to write the same thing: one object after the other,
with pycocotools or PyTorch, and checks that both give the same result.

    python benchmarks/structures.py [--repeat 20] [--threads 1]
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F

from detectron2.structures import BitMasks, PolygonMasks, heatmaps_to_keypoints

Polygons = list[list[np.ndarray]]


def round_objects(count: int, corners: int, size: int, rng: np.random.Generator) -> Polygons:
    """Objects of one or two roundish polygons, as annotators draw them."""
    objects = []
    for _ in range(count):
        polygons = []
        for _ in range(rng.integers(1, 3)):
            angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
            radius = rng.uniform(0.03, 0.15) * size * rng.uniform(0.8, 1.2, corners)
            center = rng.uniform(0.2, 0.8, 2) * size
            outline = center + radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), 1)
            polygons.append(outline.ravel())
        objects.append(polygons)
    return objects


def coco_fill(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.decode(rle).astype(bool)


def plain_crop_and_resize(objects: Polygons, boxes: Tensor, mask_size: int) -> Tensor:
    crops = []
    for polygons, box in zip(objects, boxes.double().numpy()):
        scale = mask_size / np.maximum(box[2:] - box[:2], 0.1)
        moved = [((p.reshape(-1, 2) - box[:2]) * scale).ravel() for p in polygons]
        crops.append(torch.from_numpy(coco_fill(moved, mask_size, mask_size)))
    return torch.stack(crops)


def plain_from_polygons(objects: Polygons, height: int, width: int) -> Tensor:
    return torch.stack([torch.from_numpy(coco_fill(p, height, width)) for p in objects])


def plain_bounding_boxes(bitmaps: Tensor) -> Tensor:
    boxes = torch.zeros(len(bitmaps), 4)
    for index, bitmap in enumerate(bitmaps):
        x, y = bitmap.any(0).nonzero()[:, 0], bitmap.any(1).nonzero()[:, 0]
        if len(x):
            boxes[index] = torch.stack((x[0], y[0], x[-1] + 1, y[-1] + 1))
    return boxes


def plain_heatmaps(maps: Tensor, rois: Tensor) -> Tensor:
    found = torch.zeros(*maps.shape[:2], 4)
    for index, (x0, y0, x1, y1) in enumerate(rois.tolist()):
        width, height = max(x1 - x0, 1), max(y1 - y0, 1)
        columns, rows = math.ceil(width), math.ceil(height)
        enlarged = F.interpolate(maps[index][None], (rows, columns), mode="bicubic")[0]
        logit, place = enlarged.flatten(1).max(1)
        found[index, :, 0] = x0 + (place % columns + 0.5) * width / columns
        found[index, :, 1] = y0 + (place // columns + 0.5) * height / rows
        found[index, :, 2] = logit
        found[index, :, 3] = torch.exp(logit - maps[index].flatten(1).logsumexp(1))
    return found


def seconds(function: Callable[[], Any], repeat: int) -> float:
    """The median of `repeat` calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def polygon_rows(rng: np.random.Generator) -> list[tuple[str, Callable, Callable]]:
    rows: list[tuple[str, Callable, Callable]] = []
    for count, corners, mask_size in ((20, 20, 28), (100, 20, 28), (100, 60, 28), (50, 60, 112)):
        objects = round_objects(count, corners, 800, rng)
        masks = PolygonMasks(objects)
        boxes = masks.get_bounding_boxes().tensor + torch.randn(count, 4) * 4
        rows.append(
            (
                f"crop_and_resize, {count} objects, {corners} corners, {mask_size} x {mask_size}",
                lambda o=objects, b=boxes, s=mask_size: plain_crop_and_resize(o, b, s),
                lambda m=masks, b=boxes, s=mask_size: m.crop_and_resize(b, s),
            )
        )
    objects = round_objects(50, 40, 800, rng)
    rows.append(
        (
            "BitMasks.from_polygon_masks, 50 objects, 800 x 800",
            lambda: plain_from_polygons(objects, 800, 800),
            lambda: BitMasks.from_polygon_masks(objects, 800, 800).tensor,
        )
    )
    return rows


def tensor_rows(rng: np.random.Generator) -> list[tuple[str, Callable, Callable]]:
    rows: list[tuple[str, Callable, Callable]] = []
    for count, size in ((20, 400), (100, 800)):
        bitmaps = BitMasks.from_polygon_masks(round_objects(count, 20, size, rng), size, size)
        rows.append(
            (
                f"BitMasks.get_bounding_boxes, {count} objects, {size} x {size}",
                lambda b=bitmaps: plain_bounding_boxes(b.tensor),
                lambda b=bitmaps: b.get_bounding_boxes().tensor,
            )
        )
    for count, largest in ((8, 300), (100, 120)):
        maps = torch.randn(count, 17, 56, 56) * 3
        corners = torch.rand(count, 2) * 100
        rois = torch.cat((corners, corners + 30 + torch.rand(count, 2) * (largest - 30)), 1)
        rows.append(
            (
                f"heatmaps_to_keypoints, {count} boxes of up to {largest} pixels, 17 keypoints",
                lambda m=maps, r=rois: plain_heatmaps(m, r),
                lambda m=maps, r=rois: heatmaps_to_keypoints(m, r),
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    table = []
    for name, plain, ours in (*polygon_rows(rng), *tensor_rows(rng)):
        same = torch.allclose(plain().double(), ours().double(), atol=1e-3)
        before, after = (seconds(function, arguments.repeat) * 1e3 for function in (plain, ours))
        table.append((name, before, after, before / after, "yes" if same else "NO"))
    headers = ("what", "plain ms", "ours ms", "ratio", "same")
    print(tabulate(table, headers=headers, floatfmt=(".0f", ".2f", ".2f", ".1f", "")))


if __name__ == "__main__":
    main()
