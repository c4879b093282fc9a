"""The first output in which two results of one image differ, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detectron2.export.info import ExportInfo
from detectron2.structures import Instances

__all__ = ["TOLERANCE", "first_difference"]

TOLERANCE = {
    "boxes": 0.1,  # pixels, of every coordinate; degrees, of an angle
    "scores": 1e-3,
    "masks": 0.005,  # share of the pixels of the mask, and at least 2 pixels
    "keypoints": 1.0,  # pixels, unless two places of a heatmap score alike
    "sem_seg": 1e-2,  # of the largest score
    "panoptic_seg": 0.005,  # share of the pixels of the image
}
_SCORES_ALIKE = 1e-3


def first_difference(
    info: ExportInfo,
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    tolerance: Mapping[str, float],
) -> str:
    """A sentence about the first output that differs; empty if all agree.

    Args:
        expected, found: results of one image, see `results_of_batch`.
        tolerance: by output, see `TOLERANCE`.
    """
    if "sem_seg" in expected:
        difference = _sem_seg(expected["sem_seg"], found["sem_seg"], tolerance)
        if difference:
            return difference
    for name in ("instances", "proposals"):
        if name in expected:
            difference = _instances(info, expected[name], found[name], tolerance)
            if difference:
                return difference
    if "panoptic_seg" in expected:
        return _panoptic(expected["panoptic_seg"][0], found["panoptic_seg"][0], tolerance)
    return ""


def _sem_seg(expected: Tensor, found: Tensor, tolerance: Mapping[str, float]) -> str:
    limit = tolerance["sem_seg"] * float(expected.abs().max())
    worst = float((expected - found).abs().max())
    if worst <= limit:
        return ""
    return f"sem_seg differs by {worst:.3g}, more than {limit:.3g}."


def _panoptic(expected: Tensor, found: Tensor, tolerance: Mapping[str, float]) -> str:
    share = float((expected != found).float().mean())
    if share <= tolerance["panoptic_seg"]:
        return ""
    return f"panoptic_seg differs in {share:.2%} of the pixels."


def _instances(
    info: ExportInfo, expected: Instances, found: Instances, tolerance: Mapping[str, float]
) -> str:
    score_name = "scores" if expected.has("scores") else "objectness_logits"
    pairs, missing, extra = _matched(expected, found, score_name, tolerance)
    for name, rows, instances in (("misses", missing, expected), ("adds", extra, found)):
        for row in rows:
            score = float(instances.get(score_name)[row])
            if not _may_be_absent(info, score, expected.get(score_name), found.get(score_name)):
                box = _boxes(instances)[row].tolist()
                place = ", ".join(f"{side:.1f}" for side in box)
                kind = (
                    f" of class {int(instances.pred_classes[row])}"
                    if instances.has("pred_classes")
                    else ""
                )
                return (
                    f"{_box_name(expected)} differ: the file {name} a detection{kind} at "
                    f"({place}) with score {score:.4f}."
                )
    return _fields(expected[pairs[:, 0]], found[pairs[:, 1]], tolerance)


def _matched(
    expected: Instances, found: Instances, score_name: str, tolerance: Mapping[str, float]
) -> tuple[Tensor, list[int], list[int]]:
    """(P, 2) rows of detections that agree in class, box and score, and the rows without one."""
    boxes, other_boxes = _boxes(expected), _boxes(found)
    gap = (boxes[:, None] - other_boxes[None]).abs()
    if boxes.shape[1] == 5:  # -180 and 180 degrees are the same angle
        gap[..., 4] = torch.minimum(gap[..., 4], (gap[..., 4] - 360).abs())
    gap = gap.amax(dim=2)
    score, other_score = expected.get(score_name), found.get(score_name)
    alike = (gap <= tolerance["boxes"]) & (
        (score[:, None] - other_score[None]).abs()
        <= tolerance["scores"] * score.abs().clamp(min=1)[:, None]
    )
    if expected.has("pred_classes"):
        alike &= expected.pred_classes[:, None] == found.pred_classes[None]
    pairs: list[tuple[int, int]] = []
    free = torch.ones(len(found), dtype=torch.bool)
    for row in range(len(expected)):
        candidates = (alike[row] & free).nonzero()[:, 0]
        if len(candidates):
            best = int(candidates[gap[row, candidates].argmin()])
            free[best] = False
            pairs.append((row, best))
    matched = {row for row, _ in pairs}
    missing = [row for row in range(len(expected)) if row not in matched]
    return (
        torch.tensor(pairs, dtype=torch.int64).view(-1, 2),
        missing,
        free.nonzero()[:, 0].tolist(),
    )


def _may_be_absent(info: ExportInfo, score: float, expected: Tensor, found: Tensor) -> bool:
    """Whether a detection is so near to a limit that rounding decides about it."""
    if info.score_threshold is not None and abs(score - info.score_threshold) <= _SCORES_ALIKE:
        return True
    limit = info.max_detections
    full = limit is not None and max(len(expected), len(found)) >= limit
    lowest = min(float(s.min()) for s in (expected, found) if len(s)) if full else None
    return lowest is not None and abs(score - lowest) <= _SCORES_ALIKE * max(1.0, abs(lowest))


def _fields(expected: Instances, found: Instances, tolerance: Mapping[str, float]) -> str:
    if expected.has("pred_masks"):
        wrong = (expected.pred_masks ^ found.pred_masks).flatten(1).sum(dim=1)
        area = expected.pred_masks.flatten(1).sum(dim=1)
        limit = (area * tolerance["masks"]).clamp(min=2)
        bad = (wrong > limit).nonzero()[:, 0].tolist()
        if bad:
            row = bad[0]
            return f"pred_masks differ: mask {row} in {int(wrong[row])} of {int(area[row])} pixels."
    if expected.has("pred_keypoints"):
        mine, theirs = expected.pred_keypoints, found.pred_keypoints
        distance = (mine[..., :2] - theirs[..., :2]).norm(dim=-1)
        tied = (mine[..., 2] - theirs[..., 2]).abs() <= _SCORES_ALIKE * mine[..., 2].abs()
        bad = ((distance > tolerance["keypoints"]) & ~tied).nonzero().tolist()
        if bad:
            row, keypoint = bad[0]
            return (
                f"pred_keypoints differ: keypoint {keypoint} of detection {row} by "
                f"{float(distance[row, keypoint]):.1f} pixels."
            )
    return ""


def _box_name(instances: Instances) -> str:
    return "pred_boxes" if instances.has("pred_boxes") else "proposal_boxes"


def _boxes(instances: Instances) -> Tensor:
    return instances.get(_box_name(instances)).tensor
