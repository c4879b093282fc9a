"""Draw the masks of boxes into full images."""

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair, check_boxes, check_floating, check_same_device
from detectron2.ops.paste_masks.reference import paste_masks_reference

__all__ = ["paste_masks"]


def paste_masks(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Resize every mask to its box by bilinear interpolation and cut it at a threshold.

    Args:
        masks: (N, h, w) in [0, 1].
        boxes: (N, 4) rows of (x0, y0, x1, y1), in pixels of the image.
        image_size: (H, W) of the image.
        threshold: a pixel belongs to the object where the value at its center is at least
            this; a negative threshold returns the values themselves.

    Returns:
        (N, H, W) bool, or for a negative threshold uint8 with 255 for the value 1.

    Raises:
        ValueError: wrong shapes, or tensors on two devices.
        TypeError: a tensor does not hold floating point numbers.
    """
    if masks.dim() != 3 or masks.shape[0] != boxes.shape[0]:
        raise ValueError(
            f"masks has shape {tuple(masks.shape)} for {boxes.shape[0]} boxes; expected (N, h, w) "
            "with one mask per box."
        )
    check_floating(masks, "masks")
    check_boxes(boxes, 4)
    check_same_device(masks, boxes, "masks", "boxes")
    height, width = as_pair(image_size, "image_size", minimum=0)
    return dispatch.call(
        "paste_masks", masks.detach(), boxes.detach(), height, width, float(threshold)
    )


def fake_paste_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Tensor:
    dtype = torch.uint8 if threshold < 0 else torch.bool
    return masks.new_empty(masks.shape[0], height, width, dtype=dtype)


dispatch.define(
    "paste_masks(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold) "
    "-> Tensor",
    reference=paste_masks_reference,
    fake=fake_paste_masks,
    numba="detectron2.ops.paste_masks.cpu:paste_masks",
    triton="detectron2.ops.paste_masks.gpu:paste_masks",
)
