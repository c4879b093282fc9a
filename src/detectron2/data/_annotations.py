"""Annotations of one image: transforming them, and making `Instances` of them.

Public through `detection_utils`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detectron2.data import transforms as T
from detectron2.data._segmentations import (
    decode_rle,
    finite_numbers,
    masks_of_annotations,
    transform_segmentation,
)
from detectron2.data.errors import MissingEntryError, SampleError
from detectron2.structures import (
    Boxes,
    BoxMode,
    Instances,
    Keypoints,
    RotatedBoxes,
)

__all__ = [
    "annotations_to_instances",
    "annotations_to_instances_rotated",
    "decode_rle",
    "filter_empty_instances",
    "get_bbox",
    "transform_instance_annotations",
    "transform_keypoint_annotations",
    "transform_proposals",
]


def get_bbox(annotation: dict[str, Any]) -> Any:
    """The box of an annotation as xyxy in pixels, in the container that it came in.

    Raises:
        MissingEntryError: the annotation does not say where its box is, or in which form.
        SampleError: the box is not what that form says.
    """
    for key in ("bbox", "bbox_mode"):
        if key not in annotation:
            raise MissingEntryError(
                f"An annotation has no {key!r}; it needs 'bbox' and 'bbox_mode', such as "
                f"BoxMode.XYXY_ABS. It has: {', '.join(map(str, annotation))}."
            )
    try:
        return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    except (AssertionError, AttributeError, TypeError, ValueError) as e:
        raise SampleError(f"The box {annotation['bbox']!r} of an annotation is none: {e}") from e


def transform_proposals(
    dataset_dict: dict[str, Any],
    image_shape: tuple[int, int],
    transforms: T.Transform,
    *,
    proposal_topk: int,
    min_box_size: float = 0,
) -> None:
    """Replace the precomputed proposals of a record, in place, by transformed `Instances`.

    Reads and removes "proposal_boxes" (N, 4), "proposal_objectness_logits" (N,) and
    "proposal_bbox_mode"; adds "proposals" with `proposal_boxes` and `objectness_logits`. Without
    proposals nothing happens.

    Args:
        dataset_dict: a record.
        image_shape: (h, w) of the transformed image.
        transforms: what was done to the image.
        proposal_topk: how many proposals are kept, the first ones (files hold them by score).
        min_box_size: boxes whose sides are not both longer than this are dropped, in pixels.
    """
    if "proposal_boxes" not in dataset_dict:
        return
    boxes = BoxMode.convert(
        np.asarray(dataset_dict.pop("proposal_boxes")),
        dataset_dict.pop("proposal_bbox_mode"),
        BoxMode.XYXY_ABS,
    )
    proposal_boxes = Boxes(torch.as_tensor(transforms.apply_box(boxes), dtype=torch.float32))
    logits = np.asarray(dataset_dict.pop("proposal_objectness_logits")).astype("float32")
    objectness_logits = torch.as_tensor(logits)
    proposal_boxes.clip(image_shape)
    keep = proposal_boxes.nonempty(threshold=min_box_size)
    proposals = Instances(image_shape)
    proposals.proposal_boxes = proposal_boxes[keep][:proposal_topk]
    proposals.objectness_logits = objectness_logits[keep][:proposal_topk]
    dataset_dict["proposals"] = proposals


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: T.Transform | Sequence[T.Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
) -> dict[str, Any]:
    """Transform box, segmentation and keypoints of one annotation.

    Args:
        annotation: of one object, in pixels of the original image. The dictionary is changed;
            lists and arrays in it are not.
        transforms: what was done to the image.
        image_size: (h, w) of the transformed image. The box is clipped to it.
        keypoint_hflip_indices: see `create_keypoint_hflip_indices`.

    Returns:
        `annotation` with "bbox" as a (4,) xyxy array; "segmentation" as flat polygon arrays, or
        an (H, W) mask if it came as a mask or run-length encoding; "keypoints" as (K, 3).

    Raises:
        SampleError: the segmentation is of no known kind, or does not fit the image.
    """
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    box = transforms.apply_box(finite_numbers(get_bbox(annotation), "box")[None])[0]
    height, width = image_size
    annotation["bbox"] = np.minimum(box.clip(min=0), [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = transform_segmentation(
            annotation["segmentation"], transforms, image_size
        )
    if "keypoints" in annotation:
        annotation["keypoints"] = transform_keypoint_annotations(
            annotation["keypoints"], transforms, image_size, keypoint_hflip_indices
        )
    return annotation


def transform_keypoint_annotations(
    keypoints: Any,
    transforms: T.Transform,
    image_size: tuple[int, int],
    keypoint_hflip_indices: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Transform keypoints; those that leave the image become unlabelled.

    Args:
        keypoints: K times (x, y, visibility), flat or (K, 3).
        transforms: what was done to the image.
        image_size: (h, w) of the transformed image.
        keypoint_hflip_indices: (K,), how left and right swap in a mirrored image.

    Returns:
        (K, 3) float64. Unlabelled keypoints (visibility 0) are (0, 0, 0).

    Raises:
        ValueError: the image was mirrored, and there are no indices or not K of them.
    """
    keypoints = finite_numbers(keypoints, "keypoint")
    if keypoints.size % 3:
        raise SampleError(
            f"An object has {keypoints.size} numbers as its keypoints; each has three of them."
        )
    keypoints = keypoints.reshape(-1, 3)
    xy = transforms.apply_coords(keypoints[:, :2])
    inside = ((xy >= 0) & (xy <= np.array(image_size)[::-1])).all(axis=1)
    keypoints[:, :2] = xy
    keypoints[~inside, 2] = 0
    steps = transforms.transforms if isinstance(transforms, T.TransformList) else [transforms]
    mirrored = sum(isinstance(step, T.HFlipTransform) for step in steps) % 2 == 1
    if keypoint_hflip_indices is not None and len(keypoint_hflip_indices) != len(keypoints):
        raise ValueError(
            f"keypoint_hflip_indices has {len(keypoint_hflip_indices)} entries, but the object "
            f"has {len(keypoints)} keypoints; check keypoint_names in the dataset's metadata."
        )
    if mirrored:
        if keypoint_hflip_indices is None:
            raise ValueError(
                "The image was mirrored, but keypoint_hflip_indices is None; pass "
                "create_keypoint_hflip_indices(dataset_names), or do not flip."
            )
        keypoints = keypoints[np.asarray(keypoint_hflip_indices, dtype=np.int64), :]
    keypoints[keypoints[:, 2] == 0] = 0
    return keypoints


def annotations_to_instances(
    annos: Sequence[dict[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Ground truth `Instances` of one image.

    Args:
        annos: annotations of the N objects, in pixels of the (transformed) image.
        image_size: (h, w) of that image.
        mask_format: "polygon" or "bitmask": what `gt_masks` becomes.

    Returns:
        Instances with `gt_boxes` (N, 4), `gt_classes` (N,) int64 and, where the annotations have
        them, `gt_masks` and `gt_keypoints`. An object without segmentation among objects that
        have one gets an empty mask; `filter_empty_instances` then drops it.

    Raises:
        SampleError: a segmentation cannot become `mask_format`.
    """
    target = Instances(tuple(image_size))
    target.gt_boxes = Boxes(_stack_boxes(annos, columns=4))
    target.gt_classes = _classes(annos)
    if any("segmentation" in annotation for annotation in annos):
        target.gt_masks = masks_of_annotations(annos, image_size, mask_format)
    if any("keypoints" in annotation for annotation in annos):
        target.gt_keypoints = Keypoints(_stack_keypoints(annos))
    return target


def annotations_to_instances_rotated(
    annos: Sequence[dict[str, Any]], image_size: tuple[int, int]
) -> Instances:
    """Ground truth `Instances` of one image with rotated boxes.

    Args:
        annos: annotations whose "bbox" is (x, y, w, h, degrees), `BoxMode.XYWHA_ABS`.
        image_size: (h, w). Boxes are clipped to it where they are almost horizontal.

    Returns:
        Instances with `gt_boxes`, RotatedBoxes (N, 5), and `gt_classes` (N,) int64.
    """
    target = Instances(tuple(image_size))
    boxes = [annotation["bbox"] for annotation in annos]
    target.gt_boxes = RotatedBoxes(
        torch.as_tensor(np.array(boxes, dtype=np.float32).reshape(-1, 5))
    )
    target.gt_boxes.clip(image_size)
    target.gt_classes = _classes(annos)
    return target


def _classes(annos: Sequence[dict[str, Any]]) -> torch.Tensor:
    try:
        return torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise SampleError(f"An annotation has no number as its 'category_id': {e!r}.") from e


def _stack_boxes(annos: Sequence[dict[str, Any]], columns: int) -> torch.Tensor:
    boxes = np.array([get_bbox(annotation) for annotation in annos], dtype=np.float32)
    return torch.as_tensor(boxes.reshape(-1, columns))


def _stack_keypoints(annos: Sequence[dict[str, Any]]) -> np.ndarray:
    known = {
        i: np.asarray(a["keypoints"], dtype=np.float64).reshape(-1, 3)
        for i, a in enumerate(annos)
        if "keypoints" in a
    }
    counts = {len(points) for points in known.values()}
    if len(counts) != 1:
        raise SampleError(
            f"The objects of one image have {sorted(counts)} keypoints; all must have as many."
        )
    unlabelled = np.zeros((counts.pop(), 3))
    return np.stack([known.get(i, unlabelled) for i in range(len(annos))])


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Instances without those whose box or mask is empty.

    Args:
        instances: ground truth of one image.
        by_box: drop boxes with a side not above `box_threshold`.
        by_mask: drop empty masks, if there are masks.
        box_threshold: in pixels.
        return_mask: also return which were kept, (N,) bool.

    Raises:
        AssertionError: neither `by_box` nor `by_mask`.
    """
    if not by_box and not by_mask:
        raise AssertionError("filter_empty_instances needs by_box or by_mask.")
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    kept = instances if bool(keep.all()) else instances[keep]
    return (kept, keep) if return_mask else kept
