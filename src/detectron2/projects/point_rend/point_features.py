"""Points: where they lie, what a map holds there, and which of them are uncertain.

Coordinates are (x, y). Those of a box or of a map are fractions of its width and height; those
of an image are pixels, with (0, 0) at the top left corner of the first pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detectron2.layers import cat, shapes_to_tensor
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.structures._repeated_masks import bitmaps_and_rows

__all__ = [
    "generate_regular_grid_point_coords",
    "get_point_coords_wrt_image",
    "get_uncertain_point_coords_on_grid",
    "get_uncertain_point_coords_with_randomness",
    "point_sample",
    "point_sample_fine_grained_features",
    "sample_point_labels",
]


def point_sample(input: Tensor, point_coords: Tensor, **kwargs: Any) -> Tensor:
    """Values of maps at points, interpolated; zero outside.

    Args:
        input: (N, C, H, W).
        point_coords: (N, P, 2) or (N, Hg, Wg, 2), fractions of the maps' size.
        kwargs: of :func:`torch.nn.functional.grid_sample`.

    Returns:
        (N, C, P) or (N, C, Hg, Wg).
    """
    kwargs.setdefault("align_corners", False)
    grid = 2.0 * point_coords - 1.0
    maps = input.to(grid.dtype)  # half precision would round the coordinates to whole cells
    if point_coords.dim() == 3:
        return F.grid_sample(maps, grid[:, :, None], **kwargs).squeeze(3).to(input.dtype)
    return F.grid_sample(maps, grid, **kwargs).to(input.dtype)


def generate_regular_grid_point_coords(
    R: int, side_size: int, device: torch.device | str
) -> Tensor:
    """(R, side_size^2, 2) centres of the cells of a square grid, row by row."""
    centres = (torch.arange(side_size, device=device, dtype=torch.float32) + 0.5) / side_size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], dim=2).view(1, -1, 2).expand(R, -1, -1)


def get_uncertain_point_coords_with_randomness(
    coarse_logits: Tensor,
    uncertainty_func: Callable[[Tensor], Tensor],
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
) -> Tensor:
    """Points to train on: uncertain ones among random ones, and some at random.

    PointRend (Kirillov et al., 2020), section 3.1.

    Args:
        coarse_logits: (N, C, H, W).
        uncertainty_func: from (N, C, P) logits to (N, 1, P) uncertainties.
        num_points: P.
        oversample_ratio: random points that are looked at, of P.
        importance_sample_ratio: points chosen by their uncertainty, of P.

    Returns:
        (N, P, 2) fractions of the maps' size.
    """
    if oversample_ratio < 1 or not 0 <= importance_sample_ratio <= 1:
        raise AssertionError(
            f"oversample_ratio is {oversample_ratio}, which must be 1 or more, and "
            f"importance_sample_ratio {importance_sample_ratio}, which must be within 0 and 1."
        )
    count, device = coarse_logits.shape[0], coarse_logits.device
    num_sampled = int(num_points * oversample_ratio)
    coords = torch.rand(count, num_sampled, 2, device=device, dtype=coarse_logits.dtype)
    # The uncertainty of the interpolated logits: an interpolation of uncertainties would be high
    # nowhere between two cells that are sure of opposite answers.
    logits = point_sample(coarse_logits, coords)
    uncertainties = uncertainty_func(logits)[:, 0]
    num_uncertain = int(importance_sample_ratio * num_points)
    chosen = uncertainties.topk(num_uncertain, dim=1).indices
    uncertain = coords.gather(1, chosen[:, :, None].expand(-1, -1, 2))
    num_random = num_points - num_uncertain
    if num_random == 0:
        return uncertain
    random = torch.rand(count, num_random, 2, device=device, dtype=coarse_logits.dtype)
    return torch.cat([uncertain, random], dim=1)


def get_uncertain_point_coords_on_grid(
    uncertainty_map: Tensor, num_points: int
) -> tuple[Tensor, Tensor]:
    """The most uncertain cells of maps.

    Args:
        uncertainty_map: (R, 1, H, W).
        num_points: at most this many, P = min(num_points, H W).

    Returns:
        (R, P) int64 numbers of the cells, row by row, and (R, P, 2) their centres.
    """
    count, _, height, width = uncertainty_map.shape
    num_points = min(height * width, num_points)
    indices = uncertainty_map.view(count, height * width).topk(num_points, dim=1).indices
    x = ((indices % width).float() + 0.5) / width
    y = (indices.div(width, rounding_mode="floor").float() + 0.5) / height
    return indices, torch.stack([x, y], dim=2)


def point_sample_fine_grained_features(
    features_list: Sequence[Tensor],
    feature_scales: Sequence[float],
    boxes: Sequence[Boxes],
    point_coords: Tensor,
) -> tuple[Tensor, Tensor]:
    """What feature maps hold at points of boxes.

    Args:
        features_list: maps of all images, (N, Ck, Hk, Wk) each.
        feature_scales: cells of each map per pixel.
        boxes: of each image, R in all.
        point_coords: (R, P, 2) fractions of the boxes' size.

    Returns:
        (R, C, P) with the channels of all maps, and (R, P, 2) the points in pixels.
    """
    corners = Boxes.cat(list(boxes)).tensor
    in_image = get_point_coords_wrt_image(corners, point_coords)
    of_images = in_image.split([len(b) for b in boxes])
    of_maps = []
    for features, scale in zip(features_list, feature_scales, strict=True):
        height, width = features.shape[-2:]
        extent = shapes_to_tensor([width, height], in_image.device) / scale
        of_map = [
            point_sample(features[n : n + 1], (points / extent)[None])[0].transpose(0, 1)
            for n, points in enumerate(of_images)
        ]
        of_maps.append(cat(of_map))
    return cat(of_maps, dim=1), in_image


def get_point_coords_wrt_image(boxes_coords: Tensor, point_coords: Tensor) -> Tensor:
    """(R, P, 2) points in pixels, of `point_coords` in boxes (R, 4) of (x0, y0, x1, y1)."""
    with torch.no_grad():
        corner, opposite = boxes_coords[:, None, :2], boxes_coords[:, None, 2:]
        return point_coords * (opposite - corner) + corner


def sample_point_labels(instances: Sequence[Instances], point_coords: Tensor) -> Tensor:
    """How far points belong to the objects of their rows.

    Args:
        instances: of each image, with `gt_masks`, R in all.
        point_coords: (R, P, 2) in pixels.

    Returns:
        (R, P) of 0 to 1, interpolated between the centres of pixels.

    Raises:
        AssertionError: the masks are polygons.
    """
    with torch.no_grad():
        of_images = point_coords.split([len(x) for x in instances])
        labels = []
        for x, points in zip(instances, of_images):
            if len(x) == 0:
                continue
            if not isinstance(x.gt_masks, BitMasks):
                raise AssertionError(
                    f"Points are looked up in bitmaps, but gt_masks are {type(x.gt_masks).__name__}"
                    ": set INPUT.MASK_FORMAT to 'bitmask' in the config."
                )
            labels.append(_sample_bitmaps(*bitmaps_and_rows(x.gt_masks), points))
        return cat(labels) if labels else point_coords.new_zeros(point_coords.shape[:2])


def _sample_bitmaps(bitmaps: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """(N, P) bilinear samples of the bitmaps in `rows`, 0 outside of the image.

    Reads four pixels a point: whole bitmaps of all proposals, as numbers, would be gigabytes.

    Args:
        bitmaps: (M, H, W) bool.
        rows: (N,) int64, the bitmap of each row of points.
        points: (N, P, 2) in pixels.
    """
    height, width = bitmaps.shape[-2:]
    centred = points - 0.5
    first = centred.floor()
    share = centred - first
    total = points.new_zeros(points.shape[:2])
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = first[..., 0] + dx, first[..., 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            column = x.clamp(0, width - 1).long()
            row = y.clamp(0, height - 1).long()
            value = bitmaps[rows[:, None], row, column] & inside
            weight_x = share[..., 0] if dx else 1 - share[..., 0]
            weight_y = share[..., 1] if dy else 1 - share[..., 1]
            total += weight_x * weight_y * value
    return total
