"""Mask pasting on GPU: one program per mask and block of pixels.

Budget: one byte written per pixel, and inside the boxes 4 loads from a mask of 3 KB; the
reference writes 8 bytes of sampling positions and 4 of values per pixel first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.launching import EXACT, device_of, divide
from detectron2.ops.paste_masks.reference import paste_masks_reference

__all__ = ["paste_masks"]

BLOCK = 1024


@triton.jit
def mask_cell(pixel, low, high, cells):  # type: ignore[no-untyped-def]
    """Position of pixels along one axis of a mask, in cells, cell centers at integers."""
    zero = tl.zeros_like(pixel).to(tl.float32)
    position = divide((pixel.to(tl.float32) + 0.5) - low, zero + (high - low)) * 2.0 - 1.0
    return tl.fma(position + 1.0, zero + cells * 0.5, zero - 0.5)


# `pixels` may be specialised: only if they are known to be divisible by 16 do threads write 8 bytes
# at once, and there are no more than these two kinds.
@triton.jit(do_not_specialize=["rows", "columns", "width"])
def paste_block(
    masks, boxes, output, rows, columns, width, pixels, threshold,
    SOFT: tl.constexpr, BLOCK: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Pixels of one mask: output (N, pixels), rows of `width`."""
    blocks = tl.cdiv(pixels, BLOCK)  # of a mask
    n = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < pixels
    x0, y0 = tl.load(boxes + n * 4), tl.load(boxes + n * 4 + 1)
    x1, y1 = tl.load(boxes + n * 4 + 2), tl.load(boxes + n * 4 + 3)
    y, x = mask_cell(pixel // width, y0, y1, rows), mask_cell(pixel % width, x0, x1, columns)
    top, left = tl.floor(y), tl.floor(x)
    reached = exists & (top >= -1) & (top < rows) & (left >= -1) & (left < columns)
    down, right = y - top, x - left
    up = 1.0 - down
    row, column = (
        tl.where(reached, top, 0.0).to(tl.int32),
        tl.where(reached, left, 0.0).to(tl.int32),
    )
    here = masks + n * rows * columns + row * columns + column
    in_top, in_left = reached & (row >= 0), column >= 0
    in_bottom, in_right = reached & (row + 1 < rows), column + 1 < columns
    # The operations and the order of torch.nn.functional.grid_sample.
    value = tl.load(here, mask=in_top & in_left, other=0.0) * ((1.0 - right) * up)
    value = tl.fma(tl.load(here + 1, mask=in_top & in_right, other=0.0), right * up, value)
    below = here + columns
    value = tl.fma(tl.load(below, mask=in_bottom & in_left, other=0.0), (1.0 - right) * down, value)
    value = tl.fma(tl.load(below + 1, mask=in_bottom & in_right, other=0.0), right * down, value)
    # Outside of the mask the value is 0; where there is no position it is not a number.
    value = tl.where(reached, value, 0.0)
    known = exists & (tl.abs(x) < float("inf")) & (tl.abs(y) < float("inf"))
    if SOFT:
        result = (value * 255).to(tl.uint8)
    else:
        result = ((value >= threshold) & known).to(tl.uint8)
    tl.store(output + n * pixels + pixel, result, mask=exists)


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """The Triton version of :func:`detectron2.ops.paste_masks`."""
    if height * width >= 2**31 - BLOCK:  # pixels of an image are numbered in 32 bits
        return paste_masks_reference(masks, boxes, height, width, threshold)
    output = torch.empty((len(masks), height, width), dtype=torch.uint8, device=masks.device)
    values, sides = masks.detach().float().contiguous(), boxes.detach().float().contiguous()
    if output.numel():
        with device_of(values):
            paste_block[(triton.cdiv(height * width, BLOCK) * len(values),)](
                values, sides, output, values.shape[1], values.shape[2], width, height * width,
                threshold, SOFT=threshold < 0, BLOCK=BLOCK, **EXACT,
            )  # fmt: skip
    return output if threshold < 0 else output.view(torch.bool)
