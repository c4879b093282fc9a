"""Suppression of rotated boxes on GPU: the bit matrix of `nms`, filled with rotated IoUs.

Budget for K boxes of an image: K^2 / 2 pairs of 6 flops, or 150 where circumscribed circles
meet, in float64, and K^2 / 8 bytes written and read once. Nothing waits for the host until the
result is sized.

Not measured yet: it has run in Triton's interpreter, and compiles for NVIDIA and AMD.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.box_iou_rotated.gpu import describe, pair_ious
from detectron2.ops.launching import EXACT
from detectron2.ops.nms.gpu import WORD, kept_indices, pack_bits
from detectron2.ops.nms.reference import threshold_below

__all__ = ["batched_nms_rotated", "fill_rotated_bits", "nms_rotated"]

# With four, 32 x 32 pairs do not find room in registers.
WARPS = 8


@triton.jit(do_not_specialize=["count", "words", "total"])
def overlap_word_rotated(
    shapes, classes, members, bits, count, words, total, threshold,
    CLASSES: tl.constexpr, WORD: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """One word of 32 rows: which of 32 later boxes each of 32 boxes overlaps; see `overlap_word`.

    `shapes` describes the `total` boxes of all images.
    """
    row_block, column_block = tl.program_id(0), tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    classes += image * count
    bits += image * count * words
    first = image * count
    row = row_block * WORD + tl.arange(0, WORD)[:, None]
    column = column_block * WORD + tl.arange(0, WORD)[None, :]
    # Words before the diagonal are never read.
    limit = tl.where(column_block >= row_block, tl.load(members + image).to(tl.int32), 0)
    exist = (row < limit) & (column < limit)
    iou = pair_ious(
        shapes, shapes, first + row, tl.where(exist, first + column, total), total, total
    )
    # Rounded to the type of the boxes before it is compared, as in the reference.
    overlaps = (iou.to(threshold.dtype.element_ty) > tl.load(threshold)) & (column > row)
    if CLASSES:
        class_of_row = tl.load(classes + row, mask=row < limit, other=0)
        class_of_column = tl.load(classes + column, mask=column < limit, other=0)
        overlaps = overlaps & (class_of_row == class_of_column)
    pack_bits(overlaps, bits, row_block, column_block, words, limit, WORD)


def suppress(
    boxes: Tensor, scores: Tensor, class_ids: Tensor | None, iou_threshold: float
) -> Tensor:
    def fill(order: Tensor, classes: Tensor, members: Tensor, bits: Tensor) -> None:
        named = None if class_ids is None else classes
        fill_rotated_bits(boxes[order], named, members, bits, iou_threshold)

    return kept_indices(scores, class_ids, fill)


def fill_rotated_bits(
    boxes: Tensor, classes: Tensor | None, members: Tensor, bits: Tensor, iou_threshold: float
) -> None:
    """Write the bit matrix of boxes (N, K, 5) of classes (N, K) int64; None is one class."""
    real = compute_dtype(boxes.dtype)
    # In memory, because Triton takes numbers as float32.
    threshold = torch.full(
        (1,), threshold_below(iou_threshold, real), dtype=real, device=boxes.device
    )
    images, count, words = bits.shape
    overlap_word_rotated[(words, words, images)](
        describe(boxes.reshape(-1, 5)), members if classes is None else classes.contiguous(),
        members, bits, count, words, images * count, threshold, CLASSES=classes is not None,
        WORD=WORD, num_warps=WARPS, **EXACT,
    )  # fmt: skip


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The Triton version of :func:`detectron2.ops.nms_rotated`."""
    return suppress(boxes, scores, None, iou_threshold)


def batched_nms_rotated(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    """The Triton version of :func:`detectron2.ops.batched_nms_rotated`."""
    return suppress(boxes, scores, class_ids, iou_threshold)
