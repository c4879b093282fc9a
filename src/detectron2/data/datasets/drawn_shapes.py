"""A small detection dataset that is drawn on the spot: no download, the same pixels everywhere.

Every image shows a few coloured shapes on a textured ground, some of them behind others. The
annotations use every kind that COCO JSON knows: boxes, polygons, run-length masks (rings and
partly hidden shapes), crowds and keypoints (the four extreme points of a shape).
"""

from __future__ import annotations

import colorsys
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog

__all__ = ["CATEGORIES", "KEYPOINTS", "register_drawn_shapes", "write_drawn_shapes"]

CATEGORIES = ("disc", "ring", "square", "triangle", "star")
KEYPOINTS = ("left", "top", "right", "bottom")
KEYPOINT_FLIP_MAP = (("left", "right"),)

# Shapes are drawn this many times larger and reduced: their edges are anti-aliased.
_SUPERSAMPLING = 4
_MIN_VISIBLE_FRACTION = 0.35
_CROWD_PROBABILITY = 0.1


@dataclass(frozen=True)
class _Shape:
    """One drawn shape. `outline` (P, 2) and `hole` are in pixels of the image."""

    category: str
    outline: np.ndarray
    hole: np.ndarray | None
    color: tuple[int, int, int]


@dataclass(frozen=True)
class _Placed:
    """A shape in its scene: (H, W) bool masks of what is seen of it and of all of it."""

    shape: _Shape
    visible: np.ndarray
    whole: np.ndarray


def register_drawn_shapes(root: str | Path, prefix: str = "drawn_shapes") -> tuple[str, str]:
    """Register the dataset that `write_drawn_shapes` wrote below `root`.

    Returns:
        The names of the training and the validation set.
    """
    from detectron2.data.datasets.coco import register_coco_instances

    root = Path(root)
    names = []
    for split in ("train", "val"):
        name = f"{prefix}_{split}"
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        keypoint_metadata = {
            "keypoint_names": list(KEYPOINTS),
            "keypoint_flip_map": list(KEYPOINT_FLIP_MAP),
        }
        images = root / split
        register_coco_instances(name, keypoint_metadata, str(root / f"{split}.json"), str(images))
        names.append(name)
    return names[0], names[1]


def write_drawn_shapes(
    root: str | Path,
    *,
    train_images: int = 200,
    val_images: int = 50,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    on_image_done: Callable[[], None] = lambda: None,
) -> None:
    """Draw the images and write `root`/{train,val}/*.png and `root`/{train,val}.json.

    Args:
        root: folder, created if absent.
        train_images: number of images of the training set.
        val_images: number of images of the validation set.
        size: (H, W) of every image, in pixels.
        seed: two calls with the same arguments write the same bytes.
        on_image_done: called after each image, for a progress bar.
    """
    root = Path(root)
    for split, count, split_seed in (("train", train_images, 0), ("val", val_images, 1)):
        (root / split).mkdir(parents=True, exist_ok=True)
        records: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        for index in range(count):
            rng = np.random.default_rng((seed, split_seed, index))
            file_name = f"{index:05d}.png"
            image, annotations = _draw_scene(rng, size)
            # Noise does not compress; the first level takes a third of the time.
            image.save(root / split / file_name, compress_level=1)
            image_id = index + 1
            records["images"].append(
                {"id": image_id, "file_name": file_name, "height": size[0], "width": size[1]}
            )
            for annotation in annotations:
                annotation_id = len(records["annotations"]) + 1
                records["annotations"].append(
                    {"id": annotation_id, "image_id": image_id, **annotation}
                )
            on_image_done()
        content = {
            "info": {"description": f"Drawn shapes, {split} set, seed {seed}"},
            **records,
            "categories": _category_records(),
        }
        (root / f"{split}.json").write_text(json.dumps(content))


def _category_records() -> list[dict[str, Any]]:
    # Ids start at 1 as in COCO, so that the mapping to contiguous ids is exercised.
    return [
        {"id": i + 1, "name": name, "keypoints": list(KEYPOINTS), "skeleton": []}
        for i, name in enumerate(CATEGORIES)
    ]


def _draw_scene(
    rng: np.random.Generator, size: tuple[int, int]
) -> tuple[Image.Image, list[dict[str, Any]]]:
    """One image and its annotations, without ids."""
    height, width = size
    crowd = _random_crowd(rng, size) if rng.random() < _CROWD_PROBABILITY else []
    placed = _drop_hidden([_random_shape(rng, size) for _ in range(int(rng.integers(2, 6)))], size)

    canvas = _background(rng, size).resize(
        (width * _SUPERSAMPLING, height * _SUPERSAMPLING), Image.Resampling.BILINEAR
    )
    for shape in (*crowd, *(one.shape for one in placed)):
        _paint(canvas, shape)
    image = canvas.resize((width, height), Image.Resampling.BOX)

    annotations = [_annotation(one) for one in placed]
    if crowd:
        mask = np.any([_mask(shape, size) for shape in crowd], axis=0)
        for one in placed:
            mask &= ~one.whole
        if mask.any():
            annotations.append(_crowd_annotation(mask))
    return image, annotations


def _drop_hidden(shapes: list[_Shape], size: tuple[int, int]) -> list[_Placed]:
    """Those of the shapes of which enough is seen; later shapes lie on top of earlier ones.

    Removing a shape only uncovers others, so one pass from the top down is enough.
    """
    placed: list[_Placed] = []
    covered = np.zeros(size, dtype=bool)
    for shape in reversed(shapes):
        whole = _mask(shape, size)
        visible = whole & ~covered
        if visible.sum() >= max(_MIN_VISIBLE_FRACTION * whole.sum(), 1):
            placed.append(_Placed(shape, visible, whole))
            covered |= whole
    return placed[::-1]


def _random_shape(rng: np.random.Generator, size: tuple[int, int]) -> _Shape:
    height, width = size
    radius = float(rng.uniform(0.13, 0.28)) * min(size)
    center = np.array(
        [
            rng.uniform(0.6 * radius, width - 0.6 * radius),
            rng.uniform(0.6 * radius, height - 0.6 * radius),
        ]
    )
    category = str(rng.choice(CATEGORIES))
    # Upright within 25 degrees, as most things in photographs are.
    angle = -math.pi / 2 + float(rng.uniform(-1, 1)) * math.radians(25)
    # Rounded here, so that the polygon that is written is the one that is drawn.
    outline = np.round(center + _unit_outline(category, angle) * radius, 2)
    hole = center + _unit_outline("disc", 0.0) * radius * 0.5 if category == "ring" else None
    return _Shape(category, outline, hole, _random_color(rng, category))


def _random_crowd(rng: np.random.Generator, size: tuple[int, int]) -> list[_Shape]:
    """A handful of tiny discs close together, annotated as one crowd."""
    height, width = size
    middle = np.array([rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height])
    color = _random_color(rng, "disc")
    centers = middle + rng.normal(0, 0.05 * min(size), (12, 2))
    return [
        _Shape("disc", center + _unit_outline("disc", 0.0) * 0.015 * min(size), None, color)
        for center in centers
    ]


def _unit_outline(category: str, angle: float) -> np.ndarray:
    """(P, 2) outline around the origin that fits a circle of radius 1, turned by `angle`."""
    corners = {"disc": 40, "ring": 40, "square": 4, "triangle": 3, "star": 10}[category]
    angles = angle + np.arange(corners) * 2 * math.pi / corners
    radii = np.ones(corners)
    if category == "star":
        radii[1::2] = 0.45
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _random_color(rng: np.random.Generator, category: str) -> tuple[int, int, int]:
    """A saturated colour around the hue of the category, as ripe fruit has: lets a model that is
    trained for a minute tell the categories apart."""
    hue = (CATEGORIES.index(category) + float(rng.uniform(-0.3, 0.3))) / len(CATEGORIES)
    rgb = colorsys.hsv_to_rgb(hue % 1.0, float(rng.uniform(0.6, 1)), float(rng.uniform(0.6, 1)))
    return (int(255 * rgb[0]), int(255 * rgb[1]), int(255 * rgb[2]))


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A soft grey texture: coarse noise, enlarged, plus fine noise."""
    coarse = rng.integers(70, 190, (5, 6, 1)).repeat(3, axis=2).astype(np.uint8)
    soft = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 6, (*size, 3))
    return Image.fromarray(np.clip(np.asarray(soft) + noise, 0, 255).astype(np.uint8))


def _paint(canvas: Image.Image, shape: _Shape) -> None:
    outline = shape.outline * _SUPERSAMPLING
    # Only the part of the canvas that the shape covers: drawing all of it takes ten times longer.
    left, top = np.floor(outline.min(axis=0)).astype(int)
    right, bottom = np.ceil(outline.max(axis=0)).astype(int) + 1
    stencil = Image.new("L", (int(right - left), int(bottom - top)), 0)
    draw = ImageDraw.Draw(stencil)
    draw.polygon([tuple(point) for point in outline - (left, top)], fill=255)
    if shape.hole is not None:
        hole = shape.hole * _SUPERSAMPLING - (left, top)
        draw.polygon([tuple(point) for point in hole], fill=0)
    canvas.paste(shape.color, (int(left), int(top)), stencil)


def _mask(shape: _Shape, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, True on the whole shape, hidden parts included."""
    from hotcoco import mask as coco_mask

    def fill(polygon: np.ndarray) -> np.ndarray:
        rles = coco_mask.frPyObjects([polygon.reshape(-1).tolist()], *size)
        return np.asarray(coco_mask.decode(rles[0])).astype(bool)

    filled = fill(shape.outline)
    return filled if shape.hole is None else filled & ~fill(shape.hole)


def _annotation(placed: _Placed) -> dict[str, Any]:
    """COCO annotation: a polygon where the outline tells all, else a run-length mask."""
    shape, visible = placed.shape, placed.visible
    ys, xs = np.nonzero(visible)
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    height, width = visible.shape
    inside = (shape.outline >= 0).all() and (shape.outline <= [width, height]).all()
    polygon_is_exact = shape.hole is None and inside and (visible == placed.whole).all()
    segmentation: Any = (
        [shape.outline.reshape(-1).tolist()] if polygon_is_exact else _encode(visible)
    )
    keypoints = _extreme_points(shape.outline, visible)
    return {
        "category_id": CATEGORIES.index(shape.category) + 1,
        "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
        "area": float(visible.sum()),
        "iscrowd": 0,
        "segmentation": segmentation,
        "keypoints": keypoints,
        "num_keypoints": sum(visibility > 0 for visibility in keypoints[2::3]),
    }


def _crowd_annotation(mask: np.ndarray) -> dict[str, Any]:
    ys, xs = np.nonzero(mask)
    left, top = int(xs.min()), int(ys.min())
    return {
        "category_id": CATEGORIES.index("disc") + 1,
        "bbox": [left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top],
        "area": float(mask.sum()),
        "iscrowd": 1,
        # Crowds of COCO carry uncompressed run lengths: counts as a list, column by column.
        "segmentation": {"size": list(mask.shape), "counts": _run_lengths(mask)},
        "keypoints": [0] * (3 * len(KEYPOINTS)),
        "num_keypoints": 0,
    }


def _extreme_points(outline: np.ndarray, visible: np.ndarray) -> list[float]:
    """x, y, v of the four extreme points; v is 2 where seen, 1 hidden, 0 outside the image."""
    height, width = visible.shape
    rows = [
        outline[:, 0].argmin(),
        outline[:, 1].argmin(),
        outline[:, 0].argmax(),
        outline[:, 1].argmax(),
    ]
    flat: list[float] = []
    for x, y in outline[rows]:
        if not (0 <= x < width and 0 <= y < height):
            flat += [0.0, 0.0, 0]
            continue
        # An extreme point lies on the border of the mask: look one pixel around it.
        window = visible[max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2]
        flat += [round(float(x), 2), round(float(y), 2), 2 if window.any() else 1]
    return flat


def _encode(mask: np.ndarray) -> dict[str, Any]:
    from hotcoco import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _run_lengths(mask: np.ndarray) -> list[int]:
    flat = mask.flatten(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0)) if flat.size else np.array([], dtype=int)
    return np.diff(changes, prepend=0, append=flat.size).tolist()
