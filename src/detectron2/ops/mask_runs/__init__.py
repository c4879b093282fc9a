"""COCO run lengths of the masks of boxes, without drawing them into full images."""

import torch
from torch import Tensor

from detectron2.ops import dispatch
from detectron2.ops.checks import as_pair, check_boxes, check_floating, check_same_device
from detectron2.ops.mask_runs.reference import mask_runs_reference

__all__ = ["mask_runs"]


def mask_runs(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
) -> tuple[list[bytes], Tensor]:
    """What COCO's codec makes of `paste_masks`, bit for bit, from the pixels of the boxes alone.

    Args:
        masks: (N, h, w) in [0, 1].
        boxes: (N, 4) rows of (x0, y0, x1, y1), in pixels of the image.
        image_size: (H, W) of the image.
        threshold: above 0; a pixel belongs to the object where the value at its centre is at
            least this.

    Returns:
        The compressed run lengths of the N masks ("counts" of an RLE dictionary), and their
        (N,) int64 areas in pixels, on the CPU.

    Raises:
        ValueError: wrong shapes, tensors on two devices, or a threshold that is not above 0.
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
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; outside of its box a mask has the value 0.")
    height, width = as_pair(image_size, "image_size", minimum=0)
    text, ends, areas = dispatch.run(
        "mask_runs", masks.detach().cpu(), boxes.detach().cpu(), height, width, float(threshold)
    )
    characters = text.numpy().tobytes()
    stops = ends.tolist()
    counts = [characters[start:stop] for start, stop in zip([0, *stops], stops)]
    return counts, areas.to(torch.int64)


dispatch.register(
    "mask_runs",
    reference=mask_runs_reference,
    numba="detectron2.ops.mask_runs.cpu:mask_runs",
)
