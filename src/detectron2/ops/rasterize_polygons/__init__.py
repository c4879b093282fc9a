"""Fill polygons."""

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair
from detectron2.ops.rasterize_polygons.reference import rasterize_polygons_reference

__all__ = ["rasterize_polygons"]


def rasterize_polygons(
    vertices: Tensor, polygon_sizes: Tensor, owners: Tensor, num_masks: int, size: tuple[int, int]
) -> Tensor:
    """Pixels inside of polygons, by the rule of the COCO API, bit for bit.

    That rule rounds corners to a fifth of a pixel, walks along the edges in fifths and looks
    where they cross the centres of columns: below an odd number of crossings is inside
    (even-odd rule). A mask is the union of its polygons.

    Args:
        vertices: (V, 2) of (x, y), float64, on the CPU: the corners of all polygons, one after
            another; (0, 0) is the top left corner of the image.
        polygon_sizes: (P,) int64, the number of corners of each polygon.
        owners: (P,) int64, the index of the mask that a polygon belongs to, ascending.
        num_masks: N; masks without a polygon are empty.
        size: (H, W) of the masks.

    Returns:
        (N, H, W) bool.

    Raises:
        ValueError: the arguments do not fit each other.
    """
    if vertices.dim() != 2 or vertices.shape[1] != 2 or vertices.dtype != torch.float64:
        raise ValueError(
            f"vertices has shape {tuple(vertices.shape)} and dtype {vertices.dtype}; expected "
            "(V, 2) and float64."
        )
    if int(polygon_sizes.sum()) != len(vertices) or owners.shape != polygon_sizes.shape:
        raise ValueError(
            f"There are {len(vertices)} corners, {len(owners)} owners and polygons of "
            f"{int(polygon_sizes.sum())} corners in all."
        )
    if len(owners) and not 0 <= int(owners.min()) <= int(owners.max()) < num_masks:
        raise ValueError(f"owners must name one of {num_masks} masks.")
    height, width = as_pair(size, "size", minimum=0)
    return dispatch.call(
        "rasterize_polygons",
        vertices,
        polygon_sizes,
        owners,
        int(num_masks),
        height,
        width,
    )


def rasterize_polygons_fake(
    vertices: Tensor, polygon_sizes: Tensor, owners: Tensor, num_masks: int, height: int, width: int
) -> Tensor:
    return vertices.new_empty(num_masks, height, width, dtype=torch.bool)


dispatch.define(
    "rasterize_polygons(Tensor vertices, Tensor polygon_sizes, Tensor owners, SymInt num_masks, "
    "SymInt height, SymInt width) -> Tensor",
    reference=rasterize_polygons_reference,
    fake=rasterize_polygons_fake,
    numba="detectron2.ops.rasterize_polygons.cpu:rasterize_polygons_cpu",
)
