"""Masks of boxes, drawn into the image: bilinear sampling, then a threshold."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["paste_masks_reference"]

BYTES_AT_ONCE = 64 << 20  # of float masks before the threshold


def sampling_positions(low: Tensor, high: Tensor, length: int) -> Tensor:
    """(N, length) position of every pixel center in its box, -1 at one edge and 1 at the other."""
    centers = torch.arange(length, device=low.device, dtype=low.dtype) + 0.5
    return (centers - low[:, None]) / (high - low)[:, None] * 2 - 1


def paste_masks_reference(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Tensor:
    """(N, height, width); see :func:`detectron2.ops.paste_masks`."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        # A graph holds no loop over a number of masks that is not known yet.
        return paste(masks, boxes, height, width, threshold)
    dtype = torch.uint8 if threshold < 0 else torch.bool
    output = torch.zeros(len(masks), height, width, dtype=dtype, device=masks.device)
    chunk = max(1, BYTES_AT_ONCE // (max(1, height * width) * 4))
    for start in range(0, len(masks), chunk):
        part = slice(start, start + chunk)
        output[part] = paste(masks[part], boxes[part], height, width, threshold)
    return output


def paste(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    values = sample_masks(masks.float(), boxes.float(), height, width)
    return (values * 255).to(torch.uint8) if threshold < 0 else values >= threshold


def sample_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """(N, height, width) values of the (N, h, w) masks at the pixel centers, 0 outside."""
    x0, y0, x1, y1 = boxes.unbind(1)
    y = sampling_positions(y0, y1, height)[:, :, None].expand(-1, -1, width)
    x = sampling_positions(x0, x1, width)[:, None, :].expand(-1, height, -1)
    grid = torch.stack([x, y], dim=3)  # (N, height, width, 2)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
