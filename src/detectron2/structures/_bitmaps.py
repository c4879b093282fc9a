"""Bitmaps of objects as plain tensors: their extents, and their parts inside of boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from detectron2.ops import multilevel_roi_align

# Pixels of bitmaps that are turned into numbers at a time, when masks are cropped.
CROP_PIXELS = 1 << 24


def crop_bitmaps(bitmaps: Tensor, rows: Tensor, boxes: Tensor, mask_size: int) -> Tensor:
    """Sample bitmaps on grids that are laid over boxes, by ROIAlign.

    Args:
        bitmaps: (N, H, W) bool.
        rows: (K,) int64, the bitmap of each box.
        boxes: (K, 4) of (x0, y0, x1, y1), in pixels.
        mask_size: M, cells of a grid per side.

    Returns:
        (K, M, M) bool: where at least half of the samples of a cell lie on the object.
    """
    size = (mask_size, mask_size)
    boxes = boxes.detach().to(bitmaps.device, torch.float32)
    step = max(1, CROP_PIXELS // max(1, bitmaps.shape[1] * bitmaps.shape[2]))
    crops = bitmaps.new_zeros(len(rows), *size)
    for start in range(0, len(bitmaps), step):
        some = bitmaps[start : start + step, None].to(torch.float32)
        here = (rows >= start) & (rows < start + step)
        # A box of another bitmap has no level here and gives zeros: nobody counts these boxes,
        # which on a GPU the host would wait for.
        rois = torch.cat([torch.where(here, rows - start, 0)[:, None].float(), boxes], dim=1)
        levels = torch.where(here, 0, -1)
        crops |= multilevel_roi_align([some], rois, levels, size, [1.0], 0, True)[:, 0] >= 0.5
    return crops


def any_pixel(bitmaps: Tensor, dim: int) -> Tensor:
    """`torch.any`, which on a CPU takes five times as long as the maximum of bytes."""
    if bitmaps.shape[dim] == 0:
        return bitmaps.any(dim=dim)
    return bitmaps.view(torch.uint8).amax(dim=dim).to(torch.bool)


def extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First True of each row of (N, L), and one after the last; 0 and 0 where there is none."""
    length = occupied.shape[1]
    position = torch.arange(length, device=occupied.device)
    end = torch.where(occupied, position + 1, 0).amax(dim=1)
    begin = torch.where(occupied, position, length).amin(dim=1)
    return torch.minimum(begin, end), end
