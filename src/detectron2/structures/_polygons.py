"""Polygons of objects, filled."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from detectron2 import ops

__all__ = [
    "Polygon",
    "PolygonsLike",
    "as_polygons",
    "fill",
    "fill_on_grids",
    "flatten",
    "polygon_area",
    "polygons_to_bitmask",
    "rasterize_polygons_within_box",
]

# Corners (x0, y0, x1, y1, ...) in pixels.
Polygon = NDArray[np.float64]
# What the polygons of one object may come as.
PolygonsLike = Sequence[ArrayLike | Tensor]


def as_polygons(polygons: PolygonsLike) -> list[Polygon]:
    """The polygons of one object as float64 arrays of at least three corners.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(polygons, (list, tuple)):
        raise ValueError(
            "The polygons of an object are a list of arrays (x0, y0, x1, y1, ...), not "
            f"{type(polygons).__name__}."
        )
    checked = []
    for polygon in polygons:
        if isinstance(polygon, Tensor):
            polygon = polygon.cpu()
        corners = np.asarray(polygon, dtype=np.float64)
        if corners.ndim != 1 or corners.size < 6 or corners.size % 2:
            raise ValueError(
                f"A polygon of shape {corners.shape} is no (x0, y0, x1, y1, ...) of at least three "
                "corners."
            )
        checked.append(corners)
    return checked


def fill(objects: Sequence[Sequence[Polygon]], size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool masks of N objects, each the union of its polygons."""
    vertices, counts, owners = flatten(objects)
    return _rasterize(vertices, counts, owners, len(objects), size)


def fill_on_grids(objects: Sequence[Sequence[Polygon]], boxes: Tensor, mask_size: int) -> Tensor:
    """(N, M, M) bool masks of N objects on grids that are laid over N boxes.

    A side of a box counts as 0.1 pixels at least.
    """
    corners = boxes.detach().to("cpu", torch.float64).numpy()
    origins = corners[:, :2]
    scales = mask_size / np.maximum(corners[:, 2:] - origins, 0.1)
    vertices, counts, owners = flatten(objects)
    owner_of_vertex = np.repeat(owners, counts)
    on_grids = (vertices - origins[owner_of_vertex]) * scales[owner_of_vertex]
    return _rasterize(on_grids, counts, owners, len(objects), (mask_size, mask_size))


def flatten(
    objects: Sequence[Sequence[Polygon]],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Corners (V, 2) of all P polygons, the number (P,) in each, and the owner (P,) of each."""
    polygons = list(chain.from_iterable(objects))
    vertices = np.concatenate(polygons) if polygons else np.empty(0)
    counts = np.array([polygon.size // 2 for polygon in polygons], dtype=np.int64)
    owners = np.repeat(np.arange(len(objects)), [len(polygons) for polygons in objects])
    return vertices.reshape(-1, 2), counts, owners


def _rasterize(
    vertices: NDArray[np.float64],
    counts: NDArray[np.int64],
    owners: NDArray[np.int64],
    num_masks: int,
    size: tuple[int, int],
) -> Tensor:
    return ops.rasterize_polygons(
        torch.from_numpy(vertices),
        torch.from_numpy(counts),
        torch.from_numpy(owners),
        num_masks,
        size,
    )


def polygon_area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Area of a polygon with the corners (x[i], y[i]): the shoelace formula."""
    return 0.5 * float(np.abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def polygons_to_bitmask(polygons: PolygonsLike, height: int, width: int) -> NDArray[np.bool_]:
    """Fill the union of polygons.

    Args:
        polygons: arrays (x0, y0, x1, y1, ...), in pixels; (0, 0) is the top left corner.
        height: H, of the mask.
        width: W, of the mask.

    Returns:
        (H, W) bool: the pixels that the COCO API fills.
    """
    return fill([as_polygons(polygons)], (height, width))[0].numpy()


def rasterize_polygons_within_box(
    polygons: PolygonsLike, box: ArrayLike | Tensor, mask_size: int
) -> Tensor:
    """Fill the union of polygons on a grid that is laid over a box.

    Args:
        polygons: arrays (x0, y0, x1, y1, ...), in pixels.
        box: (4,) of (x0, y0, x1, y1), in pixels.
        mask_size: M, cells of the grid per side.

    Returns:
        (M, M) bool.
    """
    return fill_on_grids([as_polygons(polygons)], torch.as_tensor(box)[None], mask_size)[0]
