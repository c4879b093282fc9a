"""Masks that were predicted inside of boxes, drawn into full images."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detectron2 import ops

__all__ = ["pad_masks", "paste_mask_in_image_old", "paste_masks_in_image", "scale_boxes"]


class BoxList(Protocol):
    """An object of `detectron2.structures`, which this package lies below."""

    tensor: Tensor


def paste_masks_in_image(
    masks: Tensor, boxes: Tensor | BoxList, image_shape: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Resize every mask to its box and draw it into an image of its own.

    Args:
        masks: (N, M, M), values in [0, 1].
        boxes: (N, 4) tensor, or `Boxes`, of (x0, y0, x1, y1) in pixels of the image.
        image_shape: (H, W) of the image.
        threshold: a pixel belongs to an object where the value at its centre is at least this;
            negative: no decision, the values themselves.

    Returns:
        (N, H, W) of bool; of uint8 in 0..255 if the threshold is negative, or without masks.

    Raises:
        ValueError: the masks are not square.
    """
    if masks.shape[-1] != masks.shape[-2]:
        raise ValueError(f"Masks in boxes are square; these are of shape {tuple(masks.shape)}.")
    if len(masks) == 0:
        return masks.new_zeros((0, *image_shape), dtype=torch.uint8)
    corners = boxes if isinstance(boxes, Tensor) else boxes.tensor
    if len(corners) != len(masks):
        raise ValueError(f"{len(masks)} masks need as many boxes, not {len(corners)}.")
    return ops.paste_masks(masks, corners, image_shape, threshold)


def pad_masks(masks: Tensor, padding: int) -> tuple[Tensor, float]:
    """Put a border of zeros around masks.

    Args:
        masks: (N, M, M).
        padding: P, the width of the border.

    Returns:
        (N, M + 2P, M + 2P) masks, and by how much they have grown: (M + 2P) / M.
    """
    side = masks.shape[-1]
    return F.pad(masks, (padding,) * 4), float(side + 2 * padding) / side


def scale_boxes(boxes: Tensor, scale: float) -> Tensor:
    """(N, 4) boxes of the same centres whose sides are `scale` times as long."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    half_sizes = (boxes[:, 2:] - boxes[:, :2]) * (scale / 2)
    return torch.cat((centers - half_sizes, centers + half_sizes), dim=1)


def _do_paste_mask(
    masks: Tensor, boxes: Tensor, img_h: int, img_w: int, skip_empty: bool = True
) -> tuple[Tensor, tuple[slice, ...]]:
    """Soft masks in the frame of an image; differentiable, unlike `paste_masks_in_image`.

    Args:
        masks: (N, 1, h, w).
        boxes: (N, 4) of (x0, y0, x1, y1), in pixels of the image.
        img_h: H, rows of the image.
        img_w: W, columns of the image.
        skip_empty: compute only the part of the image that any box reaches, one pixel more on
            each side.

    Returns:
        Masks (N, h', w') and the (rows, columns) of the image that they cover; without
        `skip_empty` masks (N, H, W) and an empty tuple.
    """
    x_begin, y_begin, x_end, y_end = 0, 0, img_w, img_h
    if skip_empty:
        first = (boxes[:, :2].amin(dim=0).floor() - 1).clamp(min=0)
        last = boxes[:, 2:].amax(dim=0).ceil() + 1
        x_begin, y_begin, x_end, y_end = torch.cat((first, last)).int().tolist()
        x_end, y_end = min(x_end, img_w), min(y_end, img_h)
    x0, y0, x1, y1 = boxes.to(masks.dtype)[:, :, None].unbind(dim=1)  # (N, 1) each
    x = torch.arange(x_begin, x_end, device=masks.device, dtype=masks.dtype) + 0.5
    y = torch.arange(y_begin, y_end, device=masks.device, dtype=masks.dtype) + 0.5
    x = (x - x0) / (x1 - x0) * 2 - 1  # (N, w'), the box is [-1, 1]
    y = (y - y0) / (y1 - y0) * 2 - 1  # (N, h')
    size = (len(masks), y.shape[1], x.shape[1])
    grid = torch.stack((x[:, None, :].expand(size), y[:, :, None].expand(size)), dim=3)
    # A box without area divides by 0; a position that is far outside samples 0.
    grid = torch.nan_to_num(grid, nan=2.0, posinf=2.0, neginf=2.0)
    pasted = F.grid_sample(masks, grid, align_corners=False)[:, 0]
    return pasted, (slice(y_begin, y_end), slice(x_begin, x_end)) if skip_empty else ()


def _paste_masks_tensor_shape(
    masks: Tensor,
    boxes: Tensor,
    image_shape: tuple[Tensor, Tensor],
    threshold: float = 0.5,
) -> Tensor:
    """`paste_masks_in_image` for an (H, W) of two 0-d tensors, as a traced model has it."""
    height, width = (int(side) for side in image_shape)
    return paste_masks_in_image(masks, boxes, (height, width), threshold)


def paste_mask_in_image_old(
    mask: Tensor, box: Tensor, img_h: int, img_w: int, threshold: float
) -> Tensor:
    """Draw one mask into an image with the integer box arithmetic of Detectron 1.

    The box is rounded towards zero and both of its corners count as pixels, so positions are
    off by up to a pixel. For comparisons with old results; otherwise use
    `paste_masks_in_image`.

    Args:
        mask: (M, M) float32, values in [0, 1].
        box: (4,) of (x0, y0, x1, y1), in pixels of the image.
        img_h: H, rows of the image.
        img_w: W, columns of the image.
        threshold: a pixel belongs to the object where the resized mask exceeds this; negative:
            the values themselves.

    Returns:
        (H, W) uint8: 0 and 1, or 0..255 for a negative threshold.
    """
    from PIL import Image

    x0, y0, x1, y1 = box.to(torch.int64).tolist()
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    picture = Image.fromarray(mask.detach().cpu().numpy().astype(np.float32))
    soft = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    drawn = (soft > threshold) if threshold >= 0 else soft * 255
    image = np.zeros((img_h, img_w), dtype=np.uint8)
    rows = slice(max(y0, 0), min(y0 + height, img_h))
    columns = slice(max(x0, 0), min(x0 + width, img_w))
    if rows.start < rows.stop and columns.start < columns.stop:
        image[rows, columns] = drawn[
            rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0
        ]
    return torch.from_numpy(image)
