"""Ground truth with the indices that evaluators know from pycocotools."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import Any

from hotcoco import COCO

__all__ = ["CocoApi"]


class CocoApi(COCO):
    """A hotcoco.COCO that also finds annotations by image, as a `COCOEvaluator`'s subclass may."""

    @cached_property
    def imgToAnns(self) -> defaultdict[int, list[dict[str, Any]]]:
        """Annotations by id of their image; no annotations for any other id."""
        by_image = defaultdict(list)
        for annotation in self.dataset["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
        return by_image

    @cached_property
    def catToImgs(self) -> defaultdict[int, list[int]]:
        """Ids of images by id of a category, an image once for each annotation."""
        by_category = defaultdict(list)
        for annotation in self.dataset["annotations"]:
            by_category[annotation["category_id"]].append(annotation["image_id"])
        return by_category
