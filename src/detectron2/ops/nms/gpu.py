"""Non-maximum suppression on GPU, without waiting for the host until the result is sized.

First a bit matrix of each image: bit c of word [r, w] says that box r overlaps box 32 w + c,
later and of its class. Then one program for each image walks over its boxes in blocks of 32:
within a block one by one, in scalars, then the rows of the kept boxes are or-ed into the set of
dropped ones.

Budget for K boxes of an image: K^2 / 2 pairs of 14 flops, K^2 / 8 bytes written and read once.
The reference writes K^2 booleans and reads them several times.
"""

import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.launching import EXACT, device_of, divide
from detectron2.ops.nms.reference import (
    batched_nms_reference,
    nms_reference,
    score_order,
    threshold_below,
)

__all__ = [
    "WORD",
    "batched_nms",
    "bit_matrix",
    "fill_bits",
    "keep_from_bits",
    "kept_indices",
    "nms",
    "overlaps_more",
    "pack_bits",
]

WORD = 32

# Of `reduce_words` for some numbers of words: warps, and rows of the matrix that they read at once.
# With all 32 rows 4096 words would need four times the registers that there are.
WARPS_AND_ROWS = {64: (4, 32), 256: (4, 32), 1024: (8, 16), 4096: (16, 8)}


@triton.jit
def pack_bits(overlaps, bits, row_block, column_block, words, limit, WORD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store (WORD, WORD) flags as one word of each of the rows below `limit`."""
    # Distinct bits: the sum is their union, and bit 31 wraps to the sign.
    weight = (tl.full((1, WORD), 1, tl.int32) << tl.arange(0, WORD)[None, :]).to(tl.int32)
    word = tl.sum(tl.where(overlaps, weight, 0), axis=1)
    row = row_block * WORD + tl.arange(0, WORD)
    tl.store(bits + row.to(tl.int64) * words + column_block, word, mask=row < limit)


@triton.jit
def overlaps_more(ax0, ay0, ax1, ay1, bx0, by0, bx1, by1, threshold):  # type: ignore[no-untyped-def]
    """Whether the IoU of boxes a and b, a the better one, is above the threshold."""
    wide = tl.maximum(tl.minimum(ax1, bx1) - tl.maximum(ax0, bx0), 0.0)
    high = tl.maximum(tl.minimum(ay1, by1) - tl.maximum(ay0, by0), 0.0)
    common = wide * high
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - common
    return divide(common, union) > threshold


@triton.jit(do_not_specialize=["count", "words"])
def overlap_word(
    boxes, classes, members, bits, count, words, threshold,
    CLASSES: tl.constexpr, WORD: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """One word of 32 rows: which of 32 later boxes each of 32 boxes overlaps.

    Only the first `members` of the `count` boxes of each image take part.
    """
    row_block, column_block = tl.program_id(0), tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    boxes += image * count * 4
    classes += image * count
    bits += image * count * words
    row = row_block * WORD + tl.arange(0, WORD)[:, None]
    column = column_block * WORD + tl.arange(0, WORD)[None, :]
    # Words before the diagonal are never read.
    limit = tl.where(column_block >= row_block, tl.load(members + image).to(tl.int32), 0)
    has_row, has_column = row < limit, column < limit
    ax0 = tl.load(boxes + row * 4, mask=has_row, other=0.0)
    ay0 = tl.load(boxes + row * 4 + 1, mask=has_row, other=0.0)
    ax1 = tl.load(boxes + row * 4 + 2, mask=has_row, other=0.0)
    ay1 = tl.load(boxes + row * 4 + 3, mask=has_row, other=0.0)
    bx0 = tl.load(boxes + column * 4, mask=has_column, other=0.0)
    by0 = tl.load(boxes + column * 4 + 1, mask=has_column, other=0.0)
    bx1 = tl.load(boxes + column * 4 + 2, mask=has_column, other=0.0)
    by1 = tl.load(boxes + column * 4 + 3, mask=has_column, other=0.0)
    overlaps = overlaps_more(ax0, ay0, ax1, ay1, bx0, by0, bx1, by1, threshold)
    overlaps = overlaps & (column > row) & has_row & has_column
    if CLASSES:
        class_of_row = tl.load(classes + row, mask=has_row, other=0)
        class_of_column = tl.load(classes + column, mask=has_column, other=0)
        overlaps = overlaps & (class_of_row == class_of_column)
    pack_bits(overlaps, bits, row_block, column_block, words, limit, WORD)


@triton.jit(do_not_specialize=["count", "words", "enough"])
def reduce_words(
    members, bits, kept, count, words, enough,
    WORD: tl.constexpr, WORDS: tl.constexpr, AT_ONCE: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """kept (N, words): bit c of word w says that box 32 w + c of the image stays. A program for
    each image, which ends behind the word with the box that makes them `enough`."""
    image = tl.program_id(0).to(tl.int64)
    rows = bits + image * count * words
    kept += image * words
    exist = tl.load(members + image).to(tl.int32)
    column = tl.arange(0, WORDS)
    dropped = tl.zeros((WORDS,), tl.int32)
    one = tl.full((), 1, tl.int32)
    block = tl.full((), 0, tl.int32)
    found = tl.full((), 0, tl.int32)
    while (block * WORD < exist) & (found < enough):
        gone = tl.sum(tl.where(column == block, dropped, 0), axis=0)
        stays = gone * 0
        for i in tl.static_range(WORD):
            exists = block * WORD + i < exist
            overlapped = tl.load(rows + i * words + block, mask=exists, other=0)
            free = exists & (((gone >> i) & 1) == 0)
            gone = tl.where(free, gone | overlapped, gone)
            stays = tl.where(free, stays | (one << i), stays)
            found += free.to(tl.int32)
        tl.store(kept + block, stays)
        # Rows that are on their way at the same time: as many as find room in registers.
        for first in range(0, WORD, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                free = ((stays >> (first + i)) & 1) != 0
                later = (column > block) & (column < tl.where(free, words, 0))
                row = rows + (first + i) * words
                dropped = dropped | tl.load(row + column, mask=later, other=0)
        rows += WORD * words
        block += 1


def bit_matrix(images: int, count: int, device: torch.device) -> Tensor:
    """(N, K, words) int32, not filled yet."""
    return torch.empty((images, count, triton.cdiv(count, WORD)), dtype=torch.int32, device=device)


def keep_from_bits(bits: Tensor, members: Tensor, enough: int) -> Tensor:
    """(N, K) bool: what greedy suppression keeps of each image.

    Args:
        bits: (N, K, words) int32 bit matrix of boxes by descending score.
        members: (N,) int64 how many boxes of the image take part, the first ones.
        enough: kept boxes are wanted; whether more are among the result is left open.
    """
    images, count, words = bits.shape
    kept = torch.zeros(images, words, dtype=torch.int32, device=bits.device)
    # Powers of four, so that few variants are compiled.
    size = max(64, 4 ** math.ceil(math.log(words, 4)))
    warps, at_once = WARPS_AND_ROWS.get(size, (16, 1))
    with device_of(bits):
        reduce_words[(images,)](
            members, bits, kept, count, words, enough, WORD=WORD, WORDS=size,
            AT_ONCE=at_once, num_warps=warps, **EXACT,
        )  # fmt: skip
    positions = torch.arange(WORD, dtype=torch.int32, device=bits.device)
    return ((kept[..., None] >> positions) & 1).bool().flatten(1)[:, :count]


def kept_indices(
    scores: Tensor,
    class_ids: Tensor | None,
    fill: Callable[[Tensor, Tensor, Tensor, Tensor], None],
) -> Tensor:
    """Indices that greedy suppression keeps, by descending score.

    Args:
        fill: (order, classes in that order, members, bits) writes the (1, K, words) bit matrix of
            the boxes in that order.
    """
    order = score_order(scores)
    count = len(order)
    if count == 0:
        return order
    classes = order if class_ids is None else class_ids[order].contiguous()
    bits = bit_matrix(1, count, scores.device)
    members = torch.full((1,), count, device=scores.device)
    with device_of(bits):
        fill(order, classes, members, bits)
    return order[keep_from_bits(bits, members, count)[0]]


def fill_bits(
    boxes: Tensor, classes: Tensor | None, members: Tensor, bits: Tensor, iou_threshold: float
) -> None:
    """Write the bit matrix of boxes (N, K, 4) float32 of classes (N, K) int64; None is one."""
    images, count, words = bits.shape
    overlap_word[(words, words, images)](
        boxes.contiguous(), members if classes is None else classes.contiguous(), members, bits,
        count, words, threshold_below(iou_threshold, boxes.dtype), CLASSES=classes is not None,
        WORD=WORD, **EXACT,
    )  # fmt: skip


def suppress(
    boxes: Tensor, scores: Tensor, class_ids: Tensor | None, iou_threshold: float
) -> Tensor:
    real = compute_dtype(boxes.dtype)

    def fill(order: Tensor, classes: Tensor, members: Tensor, bits: Tensor) -> None:
        named = None if class_ids is None else classes
        fill_bits(boxes[order].to(real), named, members, bits, iou_threshold)

    return kept_indices(scores, class_ids, fill)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The Triton version of :func:`detectron2.ops.nms`."""
    if boxes.dtype == torch.float64:  # Triton takes the threshold as a float32
        return nms_reference(boxes, scores, iou_threshold)
    return suppress(boxes.detach(), scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float) -> Tensor:
    """The Triton version of :func:`detectron2.ops.batched_nms`."""
    if boxes.dtype == torch.float64:
        return batched_nms_reference(boxes, scores, class_ids, iou_threshold)
    return suppress(boxes.detach(), scores, class_ids, iou_threshold)
