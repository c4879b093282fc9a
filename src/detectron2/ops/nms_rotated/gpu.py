"""Suppression of rotated boxes on GPU: the bit matrix of `nms`, filled with rotated IoUs.

Budget: N^2 / 2 pairs of 6 flops, or 150 where circumscribed circles meet, in float64, and
N^2 / 8 bytes written and read once. Nothing waits for the host until the result is sized.

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

__all__ = ["batched_nms_rotated", "nms_rotated"]


@triton.jit(do_not_specialize=["count", "words"])
def overlap_word_rotated(
    shapes, classes, bits, count, words, threshold, CLASSES: tl.constexpr, WORD: tl.constexpr
):  # type: ignore[no-untyped-def]  # fmt: skip
    """One word of 32 rows: which of 32 later boxes each of 32 boxes overlaps."""
    row_block, column_block = tl.program_id(0), tl.program_id(1)
    row = row_block * WORD + tl.arange(0, WORD)[:, None]
    column = column_block * WORD + tl.arange(0, WORD)[None, :]
    # Words before the diagonal are never read.
    limit = tl.where(column_block >= row_block, count, 0)
    iou = pair_ious(shapes, shapes, row, tl.where(row < limit, column, count), count, count)
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
    real = compute_dtype(boxes.dtype)
    # In memory, because Triton takes numbers as float32.
    threshold = torch.full(
        (1,), threshold_below(iou_threshold, real), dtype=real, device=boxes.device
    )

    def fill(order: Tensor, classes: Tensor, bits: Tensor) -> None:
        count, words = bits.shape
        overlap_word_rotated[(words, words)](
            describe(boxes[order]), classes, bits, count, words, threshold,
            CLASSES=class_ids is not None, WORD=WORD, **EXACT,
        )  # fmt: skip

    return kept_indices(scores, class_ids, fill)


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The Triton version of :func:`detectron2.ops.nms_rotated`."""
    return suppress(boxes, scores, None, iou_threshold)


def batched_nms_rotated(
    boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float
) -> Tensor:
    """The Triton version of :func:`detectron2.ops.batched_nms_rotated`."""
    return suppress(boxes, scores, class_ids, iou_threshold)
