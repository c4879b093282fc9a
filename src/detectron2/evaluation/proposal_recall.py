"""Average recall of class-agnostic proposals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.evaluation.coco_dataset import GroundTruth
from detectron2.structures import Boxes, BoxMode, pairwise_iou

__all__ = ["evaluate_box_proposals", "proposal_recalls"]

# Area in pixels of the ground truth that counts.
AREA_RANGES: dict[str, tuple[float, float]] = {
    "all": (0**2, 1e5**2),
    "small": (0**2, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
    "96-128": (96**2, 128**2),
    "128-256": (128**2, 256**2),
    "256-512": (256**2, 512**2),
    "512-inf": (512**2, 1e5**2),
}
_SUFFIXES = {"all": "", "small": "s", "medium": "m", "large": "l"}


def proposal_recalls(
    predictions: Sequence[Mapping[str, Any]], ground_truth: GroundTruth
) -> dict[str, float]:
    """AR in percent at 100 and 1000 proposals, by size of the objects: "AR@100", "ARs@100", ...

    Args:
        predictions: dictionaries with "image_id" and "proposals".
    """

    def numbered() -> Iterator[dict[str, Any]]:
        # Read anew for each number: predictions may be on disk, and too many for memory.
        return ({**p, "image_id": ground_truth.number_of(p["image_id"])} for p in predictions)

    return {
        f"AR{suffix}@{limit}": 100
        * evaluate_box_proposals(numbered(), ground_truth.coco, area=area, limit=limit)["ar"].item()
        for limit in (100, 1000)
        for area, suffix in _SUFFIXES.items()
    }


def evaluate_box_proposals(
    dataset_predictions: Iterable[Mapping[str, Any]],
    coco_api: Any,
    thresholds: Tensor | None = None,
    area: str = "all",
    limit: int | None = None,
) -> dict[str, Any]:
    """Recall of ground truth boxes by the best proposals of each image.

    Each proposal finds at most one object: pairs are made greedily, the best covered object
    first. Images without proposals or without objects do not count.

    Args:
        dataset_predictions: dictionaries with "image_id" and "proposals" (proposal_boxes,
            objectness_logits).
        coco_api: COCO object of the ground truth.
        thresholds: (T,) IoU thresholds, 0.5 to 0.95 in steps of 0.05 if None.
        area: a key of `AREA_RANGES`.
        limit: proposals per image that count.

    Returns:
        "ar": mean of "recalls" (T,) at "thresholds" (T,); "gt_overlaps": (G,) best IoU of each
        object, sorted; "num_pos": G.

    Raises:
        AssertionError: unknown `area`.
    """
    if area not in AREA_RANGES:
        raise AssertionError(f"Unknown area range {area!r}; there are {sorted(AREA_RANGES)}.")
    overlaps = [torch.zeros(0)]
    for prediction in dataset_predictions:
        objects, areas = _objects(coco_api, prediction["image_id"])
        proposals = prediction["proposals"]
        if len(objects) == 0 or len(proposals) == 0:
            continue
        low, high = AREA_RANGES[area]
        objects = objects[(areas >= low) & (areas <= high)]
        order = proposals.objectness_logits.argsort(descending=True)[:limit]
        overlaps.append(_best_overlaps(proposals.proposal_boxes[order], objects))
    gt_overlaps, _ = torch.cat(overlaps).sort()
    if thresholds is None:
        thresholds = torch.arange(0.5, 0.95 + 1e-5, 0.05, dtype=torch.float32)
    count = len(gt_overlaps)
    found = (gt_overlaps[None, :] >= thresholds[:, None]).sum(dim=1)
    recalls = found.float() / float(count) if count else torch.full_like(thresholds, float("nan"))
    return {
        "ar": recalls.mean(),
        "recalls": recalls,
        "thresholds": thresholds,
        "gt_overlaps": gt_overlaps,
        "num_pos": count,
    }


def _objects(coco_api: Any, image_id: int) -> tuple[Boxes, Tensor]:
    """Boxes and areas of the annotated objects of an image, crowds left out."""
    annotations = coco_api.loadAnns(coco_api.getAnnIds(imgIds=[image_id]))
    single = [a for a in annotations if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in single]
    areas = torch.tensor([a["area"] for a in single], dtype=torch.float32)
    return Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)), areas


def _best_overlaps(proposals: Boxes, objects: Boxes) -> Tensor:
    """(G,) IoU of each object with the proposal that it is paired with, 0 without one."""
    result = torch.zeros(len(objects))
    iou = pairwise_iou(proposals, objects)  # (P, G)
    for _ in range(min(len(proposals), len(objects))):
        # The object that is covered best, and the proposal that covers it.
        best, by = iou.max(dim=0)
        value, target = best.max(dim=0)
        result[target] = value
        iou[by[target], :] = -1
        iou[:, target] = -1
    return result
