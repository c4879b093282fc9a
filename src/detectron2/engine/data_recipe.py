"""Image size, anchors, batch size, learning rate and schedule that suit some data.

Every choice comes with a sentence. What a user sets by hand is applied afterwards and wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectron2.config import CfgNode
from detectron2.structures import BoxMode

__all__ = ["BoxStatistics", "choose", "cluster_aspect_ratios", "mean_best_overlap", "statistics_of"]

_SMALL_OBJECT = 32.0
"""Pixels of the side of a small object at which detection becomes reliable: COCO's limit."""

_WORTH_IT = 0.03
"""Gain of mean overlap for which anchors are changed: those of pretrained weights fit COCO."""

_BOXES_AT_MOST = 20_000
"""For the fit of anchors, which takes 0.3 s then."""

_EPOCHS = 36
"""Of a small dataset, from pretrained weights; COCO's 1x schedule has 12."""

_IMAGES_AT_LEAST = 4_000

_EPOCHS_AT_MOST = 200


@dataclass(frozen=True)
class BoxStatistics:
    """What a dataset measures.

    Attributes:
        images: number of training images.
        sizes: (N, 2) width and height of each image of known size.
        boxes: (K, 2) width and height of each box in pixels.
        box_images: (K,) row of `sizes` of each box.
    """

    images: int
    sizes: np.ndarray
    boxes: np.ndarray
    box_images: np.ndarray


def statistics_of(records: Sequence[dict[str, Any]]) -> BoxStatistics:
    """Measure records; those without a size, and boxes without area, count as images only."""
    sizes: list[tuple[int, int]] = []
    boxes: list[tuple[float, float]] = []
    rows: list[int] = []
    for record in records:
        if not record.get("width") or not record.get("height"):
            continue
        for annotation in record["annotations"]:
            box, mode = annotation.get("bbox"), annotation.get("bbox_mode")
            if box is None or annotation.get("iscrowd", 0):
                continue
            extent = _extent(box, mode)
            if min(extent) > 0:
                boxes.append(extent)
                rows.append(len(sizes))
        sizes.append((record["width"], record["height"]))
    return BoxStatistics(
        len(records),
        np.array(sizes, dtype=float).reshape(-1, 2),
        np.array(boxes, dtype=float).reshape(-1, 2),
        np.array(rows, dtype=int),
    )


def _extent(box: Sequence[float], mode: BoxMode) -> tuple[float, float]:
    if mode in (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS):
        # The general conversion takes half a minute for COCO's boxes.
        return float(box[2]), float(box[3])
    x0, y0, x1, y1 = BoxMode.convert(list(box), mode, BoxMode.XYXY_ABS)
    return x1 - x0, y1 - y0


def choose(cfg: CfgNode, data: BoxStatistics, processes: int = 1) -> list[str]:
    """Change a config to suit the data, and say what was chosen and why.

    Args:
        cfg: of the zoo; changed in place.
        processes: GPUs, or 1 on a CPU.
    """
    said = []
    if len(data.sizes):
        said.append(_choose_image_size(cfg, data))
    if len(data.boxes) and cfg.MODEL.ANCHOR_GENERATOR.NAME == "DefaultAnchorGenerator":
        said.append(_choose_anchors(cfg, data))
    said += _choose_schedule(cfg, data.images, processes)
    return said


def _choose_image_size(cfg: CfgNode, data: BoxStatistics) -> str:
    usual, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    shorter = float(np.median(data.sizes.min(axis=1)))
    smallest = np.percentile(np.sqrt(data.boxes.prod(axis=1)), 10) if len(data.boxes) else shorter
    wanted = shorter * np.clip(_SMALL_OBJECT / smallest, 1, 2)
    size = int(min(usual, max(round(wanted / 32) * 32, 64)))
    why = (
        f"images have a median shorter side of {shorter:.0f} pixels, and a tenth of the boxes "
        f"are smaller than {smallest:.0f}"
    )
    if size == usual:
        return f"Image size stays {usual}: {why}."
    cfg.INPUT.MIN_SIZE_TEST = size
    cfg.INPUT.MIN_SIZE_TRAIN = tuple(sorted({round(size * s / 32) * 32 for s in (0.8, 0.9, 1.0)}))
    cfg.INPUT.MAX_SIZE_TEST = cfg.INPUT.MAX_SIZE_TRAIN = round(size * longest / usual)
    return f"Image size (INPUT.MIN_SIZE_TEST) is {size} instead of {usual}: {why}."


def _choose_anchors(cfg: CfgNode, data: BoxStatistics) -> str:
    boxes = _as_the_model_sees_them(cfg, data)
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    sizes = np.array([size for level in anchors.SIZES for size in level], dtype=float)
    old = list(anchors.ASPECT_RATIOS[0])
    before = mean_best_overlap(boxes, sizes, old)
    fitted = cluster_aspect_ratios(boxes, len(old))
    factors = (0.35, 0.5, 0.71, 1.0, 1.41, 2.0)
    tried = [
        (mean_best_overlap(boxes, sizes * factor, ratios), -abs(np.log(factor)), factor, ratios)
        for factor in factors
        for ratios in (old, fitted)
    ]
    after, _, factor, ratios = max(tried, key=lambda entry: entry[:2])
    if after - before < _WORTH_IT:
        return (
            f"Anchors stay as they are: their mean best overlap with the boxes is {before:.2f}, "
            f"and fitted ones (k-means) reach {after:.2f}."
        )
    anchors.SIZES = [[round(size * factor, 1) for size in level] for level in anchors.SIZES]
    anchors.ASPECT_RATIOS = [ratios]
    return (
        f"Anchors are fitted to the boxes by k-means: sizes times {factor:g} "
        f"({', '.join(f'{s * factor:.0f}' for s in sizes)}), height/width "
        f"{', '.join(f'{ratio:g}' for ratio in ratios)}; their mean best overlap with the boxes "
        f"is {after:.2f} instead of {before:.2f}."
    )


def _as_the_model_sees_them(cfg: CfgNode, data: BoxStatistics) -> np.ndarray:
    """(K, 2) width and height after the images are resized for testing."""
    shorter, longer = data.sizes.min(axis=1), data.sizes.max(axis=1)
    scale = np.minimum(cfg.INPUT.MIN_SIZE_TEST / shorter, cfg.INPUT.MAX_SIZE_TEST / longer)
    seen = data.boxes * scale[data.box_images, None]
    return seen[:: max(len(seen) // _BOXES_AT_MOST, 1)]


def mean_best_overlap(boxes: np.ndarray, sizes: np.ndarray, ratios: Sequence[float]) -> float:
    """Mean over boxes of the IoU with the most similar anchor, both at one centre.

    Args:
        boxes: (K, 2) width, height.
        sizes: square roots of the anchors' areas.
        ratios: height / width; every size comes with every ratio.
    """
    root = np.sqrt(np.asarray(ratios, dtype=float))
    anchors = np.stack([np.divide.outer(sizes, root), np.multiply.outer(sizes, root)], axis=-1)
    anchors = anchors.reshape(-1, 2)
    common = np.minimum(boxes[:, None], anchors).prod(axis=2)
    union = boxes.prod(axis=1)[:, None] + anchors.prod(axis=1) - common
    return float((common / union).max(axis=1).mean())


def cluster_aspect_ratios(boxes: np.ndarray, count: int) -> list[float]:
    """`count` values of height / width, rising, found by k-means on their logarithms."""
    values = np.log(boxes[:, 1] / boxes[:, 0])
    centers = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(50):
        nearest = np.abs(values[:, None] - centers).argmin(axis=1)
        moved = np.array(
            [
                values[nearest == i].mean() if (nearest == i).any() else centers[i]
                for i in range(count)
            ]
        )
        if np.allclose(moved, centers):
            break
        centers = moved
    return [round(float(ratio), 2) for ratio in np.exp(np.sort(centers))]


def _choose_schedule(cfg: CfgNode, images: int, processes: int) -> list[str]:
    """Batch size for the processes, the rate by the linear rule, and a length for the data."""
    solver = cfg.SOLVER
    usual, rate, length = solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER
    batch = min(usual, 2 * max(processes, 1))
    wanted = max(_EPOCHS * images, min(_IMAGES_AT_LEAST, _EPOCHS_AT_MOST * images))
    seen = min(wanted, usual * length)
    iterations = max(seen // batch, 1)
    solver.IMS_PER_BATCH, solver.BASE_LR = batch, rate * batch / usual
    solver.STEPS = tuple(round(step / length * iterations) for step in solver.STEPS)
    solver.MAX_ITER = iterations
    solver.WARMUP_ITERS = min(solver.WARMUP_ITERS, iterations // 10)
    period = max(iterations // 10, 1)
    solver.CHECKPOINT_PERIOD = min(solver.CHECKPOINT_PERIOD, period)
    said = [
        f"Batches have {batch} images (SOLVER.IMS_PER_BATCH) instead of {usual}, so the learning "
        f"rate is {solver.BASE_LR:g} instead of {rate:g} (linear rule).",
        f"Training takes {iterations} iterations, {seen / max(images, 1):.0f} times each of the "
        f"{images} images; the rate falls at {', '.join(map(str, solver.STEPS))}.",
    ]
    if cfg.DATASETS.TEST:
        cfg.TEST.EVAL_PERIOD = period
        said.append(f"It is evaluated every {period} iterations.")
    return said
