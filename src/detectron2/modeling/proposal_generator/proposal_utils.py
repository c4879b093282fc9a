"""From dense predictions to proposals, and ground truth among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detectron2.layers import batched_nms, cat
from detectron2.layers import move_device_like as move_device_like  # part of this module's address
from detectron2.layers.nms import batched_nms as nms_of_layers
from detectron2.layers.nms import batched_nms_rotated as rotated_nms_of_layers
from detectron2.layers.wrappers import numbers_to_device
from detectron2.modeling._forms import in_two_forms
from detectron2.ops import nms_topk
from detectron2.structures import Boxes, Instances, RotatedBoxes
from detectron2.utils._deferred import check_later

__all__ = [
    "add_ground_truth_to_proposals",
    "add_ground_truth_to_proposals_single_image",
    "find_top_rpn_proposals",
]

# Ground truth gets the logit of objectness 1 - 1e-10.
_GROUND_TRUTH_LOGIT = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))

# Boxes, scores, group of each box and IoU -> indices of what stays, by descending score.
NMS = Callable[[Tensor, Tensor, Tensor, float], Tensor]
# What `nms_topk` computes; other code may put functions of its own in their places.
_KNOWN_NMS = (nms_of_layers, rotated_nms_of_layers)


def find_top_rpn_proposals(
    proposals: list[Tensor],
    pred_objectness_logits: list[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Choose proposals: top-k of each level, clip, drop small ones, NMS, top-k over all levels.

    NMS runs within each level: on small maps a box and its neighbour on the next level are both
    wanted (FPN paper, section 4.1).

    Args:
        proposals: per level, (N, R_l, 4) decoded boxes.
        pred_objectness_logits: per level, (N, R_l).
        image_sizes: (height, width) of each of the N images.
        nms_thresh: IoU above which the lower of two boxes goes.
        pre_nms_topk: boxes per level and image that enter NMS.
        post_nms_topk: boxes per image at the end.
        min_box_size: both sides must be longer, in pixels.
        training: whether values that are not finite raise; otherwise they are dropped.

    Returns:
        per image, Instances with `proposal_boxes` and `objectness_logits`, by descending logit.

    Raises:
        FloatingPointError: in training, a box or logit is infinite or NaN.
    """
    candidates = clipped_candidates(
        proposals, pred_objectness_logits, image_sizes, pre_nms_topk, min_box_size, training
    )
    return suppress(Boxes, batched_nms, candidates, image_sizes, nms_thresh, post_nms_topk)


class Candidates(NamedTuple):
    """Predicted boxes of N images that suppression chooses from, K of each image.

    Attributes:
        boxes: (N, K, B).
        logits: (N, K).
        groups: (N, K) int64; only boxes of one group suppress each other.
        usable: (N, K) False for boxes to leave out.
    """

    boxes: Tensor
    logits: Tensor
    groups: Tensor
    usable: Tensor


def clipped_candidates(
    proposals: list[Tensor],
    logits: list[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    topk: int,
    min_box_size: float,
    training: bool,
) -> Candidates:
    """What enters the suppression of `find_top_rpn_proposals`, whose arguments these are.

    The boxes, (N, K, 4), are inside of their images.
    """
    boxes, best_logits, groups = best_of_each_level(proposals, logits, topk)
    usable = finite_predictions(boxes, best_logits, training)
    boxes = _clip_to_images(boxes, image_sizes)
    usable &= (boxes[..., 2:] - boxes[..., :2] > min_box_size).all(dim=-1)
    return Candidates(boxes, best_logits, groups, usable)


def keep_best_anchors(
    anchors: list[Boxes], logits: list[Tensor], deltas: list[Tensor], topk: int
) -> tuple[list[Boxes], list[Tensor], list[Tensor]]:
    """What is left of each level when only its `topk` highest logits stay.

    The choice depends on logits alone, so a few thousand rows are decoded behind it instead of
    hundreds of thousands.

    Args:
        anchors: per level, R_l boxes.
        logits: per level, (N, R_l).
        deltas: per level, (N, R_l, B).
        topk: at most this many per level and image.

    Returns:
        the arguments, each level cut to k = topk rows or as it is. A level that is cut has
        anchors of its own for each image, N * k boxes.
    """
    levels = []
    for level_anchors, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
        if level_logits.shape[1] > topk:
            level_logits, index = level_logits.topk(topk, dim=1)  # (N, k)
            level_deltas = _take_rows(level_deltas, index)
            level_anchors = level_anchors[index.flatten()]
        levels.append((level_anchors, level_logits, level_deltas))
    kept_anchors, kept_logits, kept_deltas = zip(*levels, strict=True)
    return list(kept_anchors), list(kept_logits), list(kept_deltas)


def best_of_each_level(
    proposals: list[Tensor], logits: list[Tensor], topk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `topk` best candidates of each level and image.

    Args:
        proposals: per level, (N, R_l, B).
        logits: per level, (N, R_l).
        topk: at most this many of each level.

    Returns:
        (N, K, B) boxes; (N, K) logits; and (N, K) int64 groups, a number of its own for each
        level of each image.
    """
    best_boxes, best_logits, groups = [], [], []
    first_groups = torch.arange(len(logits[0]), device=logits[0].device) * len(logits)  # (N,)
    for level, (level_boxes, level_logits) in enumerate(zip(proposals, logits, strict=True)):
        if level_logits.shape[1] > topk:
            level_logits, index = level_logits.topk(topk, dim=1)
            level_boxes = _take_rows(level_boxes, index)
        best_boxes.append(level_boxes)
        best_logits.append(level_logits)
        groups.append((first_groups + level)[:, None].expand_as(level_logits))
    return cat(best_boxes, dim=1), cat(best_logits, dim=1), cat(groups, dim=1)


def _take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (N, k, B) at `index` (N, k) out of (N, R, B)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def finite_predictions(boxes: Tensor, logits: Tensor, training: bool) -> Tensor:
    """(N, K) True where the box and its logit are finite.

    Raises:
        FloatingPointError: in training, some are not; on a GPU a trainer learns of it together
            with the losses.
    """
    finite = boxes.isfinite().all(dim=-1) & logits.isfinite()
    if training:
        total = finite.numel()
        check_later(
            (~finite).sum(),
            lambda count: FloatingPointError(
                f"{count} of {total} predicted proposals are infinite or NaN: training has "
                "diverged. Lower the learning rate or clip gradients (SOLVER.CLIP_GRADIENTS)."
            ),
        )
    return finite


def _suppress_in_places(
    box_type: type[Boxes] | type[RotatedBoxes],
    nms: NMS,
    candidates: Candidates,
    image_sizes: Sequence[tuple[int, int]],
    nms_thresh: float,
    post_nms_topk: int,
) -> list[Instances]:
    """`suppress` for which the host waits once: for the number of proposals of every image."""
    if nms not in _KNOWN_NMS:
        return NotImplemented
    places = min(post_nms_topk, candidates.boxes.shape[1])
    kept, counts = nms_topk(*candidates, nms_thresh, places)
    result = []
    for index, (image_size, count) in enumerate(zip(image_sizes, counts.tolist(), strict=True)):
        rows = kept[index, :count]
        chosen = Instances(image_size, proposal_boxes=box_type(candidates.boxes[index][rows]))
        chosen.objectness_logits = candidates.logits[index][rows]
        result.append(chosen)
    return result


@in_two_forms(fixed=_suppress_in_places)
def suppress(
    box_type: type[Boxes] | type[RotatedBoxes],
    nms: NMS,
    candidates: Candidates,
    image_sizes: Sequence[tuple[int, int]],
    nms_thresh: float,
    post_nms_topk: int,
) -> list[Instances]:
    """Proposals of each image out of its candidates, by one call of NMS for the whole batch.

    Args:
        box_type: class of the result's boxes.
        candidates: of all images.
        image_sizes: (height, width) of each image.
        nms_thresh: IoU above which the lower of two boxes goes.
        post_nms_topk: boxes per image at the end.
    """
    images, columns = candidates.usable.nonzero(as_tuple=True)
    boxes, logits = candidates.boxes[images, columns], candidates.logits[images, columns]
    keep = nms(boxes, logits, candidates.groups[images, columns], nms_thresh)
    keep_of_image = _split_by_image(keep, images, len(image_sizes), post_nms_topk)
    return [
        Instances(image_size, proposal_boxes=box_type(boxes[kept]), objectness_logits=logits[kept])
        for image_size, kept in zip(image_sizes, keep_of_image, strict=True)
    ]


def _split_by_image(keep: Tensor, images: Tensor, num_images: int, topk: int) -> list[Tensor]:
    """`keep` by image, in its order, the first `topk` of each."""
    if num_images == 1:
        return [keep[:topk]]
    image_of_kept, order = images[keep].sort(stable=True)
    counts = torch.bincount(image_of_kept, minlength=num_images).tolist()
    return [kept[:topk] for kept in keep[order].split(counts)]


def _clip_to_images(boxes: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(N, K, 4) xyxy boxes moved inside their images."""
    limits = numbers_to_device(
        [(width, height, width, height) for height, width in image_sizes], boxes.dtype, boxes.device
    )
    return boxes.clamp(min=0).minimum(limits[:, None])


def add_ground_truth_to_proposals(
    gt: list[Instances] | list[Boxes], proposals: list[Instances]
) -> list[Instances]:
    """Append the ground-truth boxes of every image to its proposals.

    Early in training no proposal may overlap an object well enough to be a positive; the object
    itself always does.

    Args:
        gt: per image, Instances with `gt_boxes`, or boxes.
        proposals: per image, Instances with `proposal_boxes` and `objectness_logits`.

    Returns:
        per image, the proposals and behind them the ground truth.

    Raises:
        AssertionError: the lists differ in length, or a ground truth lacks a field that its
            proposals have.
    """
    if len(gt) != len(proposals):
        raise AssertionError(
            f"There is ground truth for {len(gt)} images and proposals for {len(proposals)}."
        )
    pairs = zip(gt, proposals, strict=True)
    return [add_ground_truth_to_proposals_single_image(*pair) for pair in pairs]


def add_ground_truth_to_proposals_single_image(
    gt: Instances | Boxes, proposals: Instances
) -> Instances:
    """`add_ground_truth_to_proposals` for one image."""
    gt_fields = {} if isinstance(gt, Boxes) else dict(gt.get_fields())
    gt_boxes = gt if isinstance(gt, Boxes) else gt.gt_boxes
    gt_fields["proposal_boxes"] = gt_boxes
    gt_fields["objectness_logits"] = torch.full(
        (len(gt_boxes),), _GROUND_TRUTH_LOGIT, device=proposals.objectness_logits.device
    )
    missing = [name for name in proposals.get_fields() if name not in gt_fields]
    if missing:
        raise AssertionError(
            f"The proposals have fields {missing}, which the ground truth lacks; it has "
            f"{sorted(gt_fields)}."
        )
    return Instances.cat([proposals, Instances(proposals.image_size, **gt_fields)])
