"""Assignment of boxes in which pairs cost less the more they overlap."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectron2.config import CfgNode as CfgNode_
from detectron2.config import configurable
from detectron2.tracking.base_tracker import TRACKER_HEADS_REGISTRY
from detectron2.tracking.vanilla_hungarian_bbox_iou_tracker import VanillaHungarianBBoxIOUTracker

__all__ = [
    "CfgNode_",
    "IOUWeightedHungarianBBoxIOUTracker",
    "VanillaHungarianBBoxIOUTracker",
    "configurable",
]


@TRACKER_HEADS_REGISTRY.register()
class IOUWeightedHungarianBBoxIOUTracker(VanillaHungarianBBoxIOUTracker):
    """Among the pairs above the IoU threshold, those with the largest sum of IoUs.

    The whole numbers of `cost_dtype` round every IoU below 1 to 0, as in the original, so that all
    pairs weigh the same; set ``cost_dtype = np.float64`` in a subclass to weigh them.
    """

    def assign_cost_matrix_values(
        self, cost_matrix: np.ndarray, bbox_pairs: list[dict[str, Any]]
    ) -> np.ndarray:
        """Set the cost of each pair to minus its IoU, in place, and return the matrix."""
        for pair in bbox_pairs:
            cost_matrix[pair["idx"]][pair["prev_idx"]] = -1 * pair["IoU"]
        return cost_matrix
