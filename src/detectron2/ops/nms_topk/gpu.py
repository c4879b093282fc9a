"""Suppression on GPU that ends when it has found enough boxes, in one of two ways.

In rounds: one program for each image reads the candidates, by descending score, in chunks that
live in registers. It takes the first that is left, drops what it overlaps, and so on; boxes kept
in an earlier chunk are shown to a new one first. No matrix of pairs is written.

By bits: the matrix of `ops/nms` is filled by all of the GPU, and one program for each image walks
over it, 32 boxes at a time.

Budget for K candidates of which M are kept: in rounds 28 K bytes read, and M rounds one after
another of one reduction over a chunk, a dependent load and 14 flops for each of its boxes, say 2 to
3 microseconds each. By bits K^2 / 2 pairs of 14 flops and K^2 / 8 bytes, 160 Mflop and 3 MB for
K = 4800, 20 microseconds, and K / 32 steps one after another of about the length of a round. So
proposals (K = 4800, M = 1000) take 150 steps instead of 1000 rounds; detections (K = 80000,
M = 100) stay with rounds. Estimates: neither has run on a GPU yet.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectron2.ops.box_iou.reference import compute_dtype
from detectron2.ops.launching import EXACT, device_of
from detectron2.ops.nms.gpu import WORD, bit_matrix, fill_bits, keep_from_bits, overlaps_more
from detectron2.ops.nms.reference import threshold_below
from detectron2.ops.nms_rotated.gpu import fill_rotated_bits
from detectron2.ops.nms_topk.reference import nms_topk_reference

__all__ = ["MAX_PLACES", "nms_topk", "pick", "steps_of_bits"]

# Of boxes that a program holds: eight for each of 512 threads, six numbers each. 1024 threads have
# half as many registers, which do not suffice; and AMD has no 32 warps of 64.
MAX_CHUNK = 4096
# Of results that a program holds.
MAX_PLACES = 8192
# Candidates whose bit matrix takes 32 MB for each image.
MAX_BITS = 16384


@triton.jit(do_not_specialize=["length", "classes", "limit"])
def pick_in_order(
    boxes, groups, usable, order, picked, counts, length, classes, limit, threshold,
    DENSE: tl.constexpr, SHARED: tl.constexpr, CHUNK: tl.constexpr, PLACES: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """picked (N, limit): the candidates of each image that stay; counts (N,).

    Candidate c of an image has the box c and the group groups[c]; if DENSE, its group is
    c % classes, and if SHARED too, its box is c // classes.
    """
    image = tl.program_id(0).to(tl.int64)
    usable += image * length
    order += image * length
    groups += image * length
    if DENSE and SHARED:
        boxes += image * (length // classes) * 4
    else:
        boxes += image * length * 4
    lane, place = tl.arange(0, CHUNK), tl.arange(0, PLACES)
    found = tl.zeros((PLACES,), tl.int32)
    count = tl.full((), 0, tl.int32)
    start = tl.full((), 0, tl.int32)
    left = tl.full((), 1, tl.int32)
    while (start < length) & (count < limit) & (left > 0):
        exists = start + lane < length
        candidate = tl.load(order + start + lane, mask=exists, other=0).to(tl.int32)
        alive = exists & (tl.load(usable + candidate, mask=exists, other=0) != 0)
        # Those to leave out are the last: a chunk without others ends the search.
        left = tl.sum(alive.to(tl.int32), axis=0)
        row, group = candidate, candidate
        if DENSE:
            group = candidate % classes
            if SHARED:
                row = candidate // classes
        else:
            group = tl.load(groups + candidate, mask=exists, other=0)
        x0 = tl.load(boxes + row * 4, mask=alive, other=0.0)
        y0 = tl.load(boxes + row * 4 + 1, mask=alive, other=0.0)
        x1 = tl.load(boxes + row * 4 + 2, mask=alive, other=0.0)
        y1 = tl.load(boxes + row * 4 + 3, mask=alive, other=0.0)
        earlier = tl.full((), 0, tl.int32)
        head = tl.min(tl.where(alive, lane, CHUNK), axis=0)
        before = count
        # First the boxes kept in earlier chunks, then those of this one.
        while (earlier < before) | ((head < CHUNK) & (count < limit)):
            is_old = earlier < before
            old = tl.sum(tl.where(place == earlier, found, 0), axis=0)
            new = tl.load(order + start + head, mask=head < CHUNK, other=0).to(tl.int32)
            mine = tl.where(is_old, old, new)
            my_row, my_group = mine, mine
            if DENSE:
                my_group = mine % classes
                if SHARED:
                    my_row = mine // classes
            else:
                my_group = tl.load(groups + mine)
            drops = overlaps_more(
                tl.load(boxes + my_row * 4), tl.load(boxes + my_row * 4 + 1),
                tl.load(boxes + my_row * 4 + 2), tl.load(boxes + my_row * 4 + 3),
                x0, y0, x1, y1, threshold,
            )  # fmt: skip
            alive = alive & ~(drops & (group == my_group)) & (is_old | (lane != head))
            found = tl.where((place == count) & (is_old == 0), mine, found)
            count = tl.where(is_old, count, count + 1)
            earlier += 1
            head = tl.min(tl.where(alive, lane, CHUNK), axis=0)
        start += CHUNK
    tl.store(picked + image * limit + place, found.to(tl.int64), mask=place < limit)
    tl.store(counts + image, count.to(tl.int64))


def pick(
    boxes: Tensor,
    groups: Tensor | None,
    usable: Tensor,
    order: Tensor,
    classes: int,
    threshold: float,
    topk: int,
) -> tuple[Tensor, Tensor]:
    """Candidates that stay (N, topk) and their numbers (N,).

    Args:
        boxes: (N, B, 4) float32.
        groups: (N, D) int64; None where candidates are pairs (box, class), row by row.
        usable: (N, D) bool.
        order: (N, D) candidates by descending score, those to leave out last.
        classes: of the pairs; 0 with `groups`.
    """
    images, length = order.shape
    picked, counts = order.new_zeros(images, topk), order.new_zeros(images)
    if images * length * topk == 0:
        return picked, counts
    # Few sizes, because each is compiled.
    chunk = next((size for size in (256, 1024) if length <= size), MAX_CHUNK)
    with device_of(boxes):
        pick_in_order[(images,)](
            boxes, usable if groups is None else groups, usable, order, picked, counts, length,
            max(classes, 1), topk, threshold, DENSE=groups is None,
            SHARED=groups is None and boxes.shape[1] != length, CHUNK=chunk,
            PLACES=max(128, triton.next_power_of_2(topk)), num_warps=max(4, chunk // 256), **EXACT,
        )  # fmt: skip
    return picked, counts


def steps_of_bits(count: int) -> float:
    """Steps one after another by bits, where rounds take one for each kept box."""
    return triton.cdiv(count, WORD) if count <= MAX_BITS else float("inf")


def pick_by_bits(
    boxes: Tensor,
    groups: Tensor,
    usable: Tensor,
    order: Tensor,
    iou_threshold: float,
    topk: int,
) -> tuple[Tensor, Tensor]:
    """Candidates that stay (N, topk) and their numbers (N,), by the matrix of all pairs.

    Args:
        boxes: (N, K, 4), or (N, K, 5) rotated.
        groups, usable: (N, K).
        order: (N, K) candidates by descending score, those to leave out last.
    """
    images, count, numbers = boxes.shape
    picked, members = order.new_zeros(images, topk + 1), usable.sum(dim=1)
    if images * count * topk == 0:
        return order.new_zeros(images, topk), members.clamp(max=0)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, numbers))
    bits = bit_matrix(images, count, boxes.device)
    with device_of(bits):
        if numbers == 5:
            fill_rotated_bits(boxes, groups.gather(1, order), members, bits, iou_threshold)
        else:
            boxes = boxes.to(compute_dtype(boxes.dtype))
            fill_bits(boxes, groups.gather(1, order), members, bits, iou_threshold)
    kept = keep_from_bits(bits, members, topk)
    place = kept.cumsum(dim=1) - 1
    # What is not kept, and what is too many, goes to a place that is cut off.
    place = place.masked_fill(~kept | (place >= topk), topk)
    picked.scatter_(1, place, order)
    return picked[:, :topk].contiguous(), kept.sum(dim=1).clamp(max=topk)


def nms_topk(
    boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float, topk: int
) -> tuple[Tensor, Tensor]:
    """The Triton version of :func:`detectron2.ops.nms_topk`."""
    is_rotated = boxes.shape[2] == 5
    by_bits = is_rotated or steps_of_bits(boxes.shape[1]) < topk
    # Upright boxes are compared in float32.
    if not is_rotated and (boxes.dtype == torch.float64 or (not by_bits and topk > MAX_PLACES)):
        return nms_topk_reference(boxes, scores, groups, usable, iou_threshold, topk)
    # A score of -inf may be usable: two stable sorts, the last one by what counts more.
    order = scores.sort(dim=1, descending=True, stable=True).indices
    last = (~usable).gather(1, order).to(torch.uint8).sort(dim=1, stable=True).indices
    if by_bits:
        return pick_by_bits(boxes, groups, usable, order.gather(1, last), iou_threshold, topk)
    real = compute_dtype(boxes.dtype)
    return pick(
        boxes.to(real).contiguous(),
        groups.contiguous(),
        usable.contiguous(),
        order.gather(1, last),
        0,
        threshold_below(iou_threshold, real),
        topk,
    )
