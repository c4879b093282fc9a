"""From the model's output to COCO's result format, and what evaluators write of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import torch

from detectron2.evaluation.coco_results import CocoResults, EncodedMasks, encode_masks
from detectron2.evaluation.output_files import save_dict_of_lists
from detectron2.ops import mask_runs
from detectron2.structures import BoxMode, Instances, ROIMasks

__all__ = [
    "CategoryMismatchError",
    "as_plain",
    "dataset_categories",
    "instances_to_coco_json",
    "save_proposals",
    "to_coco_results",
    "without_non_finite",
]


def instances_to_coco_json(instances: Instances, img_id: Hashable) -> list[dict[str, Any]]:
    """Detections of one image in COCO's result format.

    Args:
        instances: pred_boxes, scores, pred_classes, and perhaps pred_masks ((N, H, W), or
            ROIMasks on the boxes), pred_masks_rle (RLE dictionaries) and pred_keypoints
            (N, K, 3), on any device.
        img_id: id of the image.

    Returns:
        One dictionary per detection; the category is the class index of the model.
    """
    return list(to_coco_results(instances.to("cpu"), img_id))


def to_coco_results(instances: Instances, image_id: Hashable) -> CocoResults:
    """As `instances_to_coco_json`, in columns; `instances` are on the CPU."""
    boxes = instances.pred_boxes.tensor
    masks: Any = None
    if instances.has("pred_masks") and isinstance(instances.pred_masks, ROIMasks):
        masks = box_masks(instances)
    elif instances.has("pred_masks"):
        masks = encode_masks(instances.pred_masks.numpy(), boxes.numpy())
    elif instances.has("pred_masks_rle"):
        masks = instances.pred_masks_rle
    keypoints = None
    if instances.has("pred_keypoints"):
        # Predictions are points of the plane, COCO's keypoints are indices of pixels.
        keypoints = instances.pred_keypoints - torch.tensor([0.5, 0.5, 0.0])
        keypoints = keypoints.flatten(1).numpy()
    if boxes.shape[1] == 4:
        boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    return CocoResults.of_image(
        image_id,
        instances.pred_classes.numpy(),
        instances.scores.numpy(),
        boxes.numpy(),
        masks,
        keypoints,
    )


def box_masks(instances: Instances) -> EncodedMasks:
    """Masks on boxes in COCO's run lengths, as if they had been drawn into the image."""
    masks = instances.pred_masks.tensor.float()
    counts, areas = mask_runs(masks, instances.pred_boxes.tensor.float(), instances.image_size)
    sizes = np.tile(np.array(instances.image_size, dtype=np.int64), (len(counts), 1))
    return EncodedMasks(sizes, counts, areas.numpy().astype(np.float64))


def without_non_finite(instances: Instances) -> Instances:
    """Detections whose score and box are finite."""
    finite = torch.isfinite(instances.pred_boxes.tensor).all(dim=1)
    if instances.has("scores"):
        finite &= torch.isfinite(instances.scores)
    return instances if bool(finite.all()) else instances[finite]


class CategoryMismatchError(ValueError, AssertionError):
    """The classes of the model are not those of the dataset."""


def dataset_categories(indices: np.ndarray, index_of: Mapping[int, int]) -> np.ndarray:
    """Category ids of the dataset for class indices of the model."""
    id_of = {index: category for category, index in index_of.items()}
    if sorted(id_of) != list(range(len(index_of))):
        raise CategoryMismatchError(
            f"thing_dataset_id_to_contiguous_id must map to 0..{len(index_of) - 1}, each once; "
            f"it maps to {sorted(index_of.values())}."
        )
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(id_of):
        raise CategoryMismatchError(
            f"The model predicts class {int(indices.max())}, but the dataset has "
            f"{len(id_of)} classes, numbered from 0: do the model and the dataset fit together?"
        )
    table = np.array([id_of[index] for index in range(len(id_of))], dtype=np.int64)
    return table[indices]


def as_plain(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction whose results are a plain list, readable without this library."""
    if "instances" not in prediction:
        return dict(prediction)
    return {**prediction, "instances": list(prediction["instances"])}


def save_proposals(predictions: Sequence[Mapping[str, Any]], stream: IO[bytes]) -> None:
    """Write a proposal file, as data loaders take it, of predictions that may be on disk."""

    def each(read: Callable[[Instances], Any]) -> Iterator[Any]:
        return (read(prediction["proposals"]) for prediction in predictions)

    lists = {
        "boxes": each(lambda proposals: proposals.proposal_boxes.tensor.numpy()),
        "objectness_logits": each(lambda proposals: proposals.objectness_logits.numpy()),
        "ids": (prediction["image_id"] for prediction in predictions),
    }
    save_dict_of_lists(lists, {"bbox_mode": BoxMode.XYXY_ABS.value}, stream)
