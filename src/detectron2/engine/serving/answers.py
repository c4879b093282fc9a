"""What is sent back: detections as JSON, or drawn into the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine.predict_files import draw_predictions
from detectron2.engine.serving.model import ServedModel
from detectron2.engine.serving.pictures import encode_picture
from detectron2.evaluation.coco_conversion import instances_to_coco_json, without_non_finite
from detectron2.evaluation.coco_results import encode_masks
from detectron2.structures import Instances, ROIMasks

__all__ = ["answer_as_json", "answer_as_picture"]

Output = dict[str, Any]


def answer_as_json(
    output: Output, model: ServedModel, size: tuple[int, int], min_score: float
) -> dict[str, Any]:
    """What was found, as plain data.

    Args:
        output: of the model for an image, on the CPU, in the frame of that image.
        size: (height, width) of the image.
        min_score: instances below it are left out.

    Returns:
        "height", "width", and what the model predicts: "instances", best first, with "bbox"
        (x, y, width, height; or of a rotated box its centre, width, height and angle), "score",
        "category" and "category_id", "segmentation" (COCO run lengths) and "keypoints" (x, y,
        score of each, as COCO counts pixels); "proposals" with "bbox" and "score"; "panoptic"
        and "semantic" with a mask for each segment and class.
    """
    answer: dict[str, Any] = {"height": size[0], "width": size[1]}
    if "instances" in output:
        rows = instances_to_coco_json(_confident(output["instances"], min_score), 0)
        answer["instances"] = [_instance(row, model.class_names) for row in rows]
    if "proposals" in output:
        answer["proposals"] = _proposals(output["proposals"])
    if "panoptic_seg" in output:
        answer["panoptic"] = _panoptic(model, *output["panoptic_seg"])
    elif "sem_seg" in output:
        answer["semantic"] = _semantic(output["sem_seg"], model)
    return answer


def _confident(instances: Instances, min_score: float) -> Instances:
    kept = without_non_finite(instances)
    kept = kept[kept.scores >= min_score]
    return kept[kept.scores.argsort(descending=True, stable=True)]


def _instance(row: dict[str, Any], class_names: list[str]) -> dict[str, Any]:
    category = row["category_id"]
    described = {"category": _name(class_names, category), **row}
    del described["image_id"]
    if "segmentation" in described:
        described["segmentation"] = _as_text(described["segmentation"])
    return described


def _as_text(mask: dict[str, Any]) -> dict[str, Any]:
    """COCO's run lengths with counts as text, which JSON can hold."""
    counts = mask["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in mask["size"]], "counts": text}


def _name(names: list[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"


def _proposals(proposals: Instances) -> list[dict[str, Any]]:
    boxes = proposals.proposal_boxes.tensor
    if boxes.shape[1] == 4:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    scores = proposals.objectness_logits.sigmoid()
    return [{"bbox": box, "score": score} for box, score in zip(boxes.tolist(), scores.tolist())]


def _panoptic(
    model: ServedModel, segmentation: torch.Tensor, segments: list[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    ids = segmentation.cpu().numpy()
    described = []
    for segment in segments or []:
        names = "thing_classes" if segment["isthing"] else "stuff_classes"
        category = int(segment["category_id"])
        (mask,) = encode_masks((ids == segment["id"])[None])
        row = {
            "id": int(segment["id"]),
            "category_id": category,
            "category": _name(model.metadata.get(names, []), category),
            "isthing": bool(segment["isthing"]),
            "segmentation": _as_text(mask),
        }
        if "score" in segment:
            row["score"] = float(segment["score"])
        described.append(row)
    return described


def _semantic(scores: torch.Tensor, model: ServedModel) -> list[dict[str, Any]]:
    labels = scores.argmax(dim=0).cpu().numpy()
    names = model.metadata.get("stuff_classes", [])
    described = []
    for category in np.unique(labels).tolist():
        (mask,) = encode_masks((labels == category)[None])
        described.append(
            {
                "category_id": category,
                "category": _name(names, category),
                "segmentation": _as_text(mask),
            }
        )
    return described


def answer_as_picture(
    output: Output, model: ServedModel, pixels: np.ndarray, min_score: float, media_type: str
) -> bytes:
    """The picture with what was found drawn into it, as a file.

    Args:
        output: as for `answer_as_json`.
        pixels: (H, W, C) image in the format of the model.
        min_score: instances below it are left out.
        media_type: "image/jpeg" or "image/png".
    """
    drawn = dict(output)
    if "instances" in drawn:
        kept = _confident(drawn["instances"], min_score)
        if kept.has("pred_masks") and isinstance(kept.pred_masks, ROIMasks):
            masks = kept.pred_masks.to_bitmasks(kept.pred_boxes, *pixels.shape[:2])
            kept.pred_masks = masks.tensor
        drawn["instances"] = kept
    rgb = convert_image_to_rgb(pixels, model.image_format)
    return encode_picture(draw_predictions(rgb, drawn, model.metadata), media_type)
