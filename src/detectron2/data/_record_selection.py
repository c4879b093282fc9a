"""Records that are usable for training, and proposals added to records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from detectron2.data._proposal_file import read_proposals

__all__ = [
    "filter_images_with_few_keypoints",
    "filter_images_with_only_crowd_annotations",
    "load_proposals_into_dataset",
]

logger = logging.getLogger("detectron2.data.build")  # the address under which they are public

Record = dict[str, Any]


def filter_images_with_only_crowd_annotations(dataset_dicts: Sequence[Record]) -> list[Record]:
    """Records with at least one annotation that is no crowd."""
    kept = [
        record
        for record in dataset_dicts
        if any(annotation.get("iscrowd", 0) == 0 for annotation in record["annotations"])
    ]
    logger.info(
        "Removed %d images with no usable annotations. %d images left.",
        len(dataset_dicts) - len(kept),
        len(kept),
    )
    return kept


def filter_images_with_few_keypoints(
    dataset_dicts: Sequence[Record], min_keypoints_per_image: int
) -> list[Record]:
    """Records whose objects have enough labelled keypoints together."""

    def labelled_keypoints(record: Record) -> int:
        return sum(
            int((np.asarray(annotation["keypoints"])[2::3] > 0).sum())
            for annotation in record["annotations"]
            if "keypoints" in annotation
        )

    kept = [r for r in dataset_dicts if labelled_keypoints(r) >= min_keypoints_per_image]
    logger.info(
        "Removed %d images with fewer than %d keypoints. %d images left.",
        len(dataset_dicts) - len(kept),
        min_keypoints_per_image,
        len(kept),
    )
    return kept


def load_proposals_into_dataset(dataset_dicts: list[Record], proposal_file: str) -> list[Record]:
    """Add precomputed proposals to records, in place.

    Each record gets "proposal_boxes" (N, 4), "proposal_objectness_logits" (N,), both with the
    highest logit first, and "proposal_bbox_mode".

    Args:
        dataset_dicts: records with "image_id".
        proposal_file: a pickled dictionary with the lists "ids", "boxes", "objectness_logits",
            one entry per image, and "bbox_mode".

    Raises:
        ValueError: the file holds something else, or nothing for an image.
    """
    logger.info("Loading proposals from %s", proposal_file)
    proposals = read_proposals(proposal_file)
    row_of = {str(image_id): row for row, image_id in enumerate(proposals["ids"])}
    for record in dataset_dicts:
        row = row_of.get(str(record["image_id"]))
        if row is None:
            raise ValueError(
                f"The proposal file {proposal_file!r} has no proposals for image_id "
                f"{record['image_id']!r}; make it anew for this dataset."
            )
        logits = proposals["objectness_logits"][row]
        order = logits.argsort()[::-1]
        record["proposal_boxes"] = np.asarray(proposals["boxes"][row])[order]
        record["proposal_objectness_logits"] = logits[order]
        record["proposal_bbox_mode"] = proposals["bbox_mode"]
    return dataset_dicts
