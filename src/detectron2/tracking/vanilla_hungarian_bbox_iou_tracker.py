"""Assignment of boxes in which every pair that overlaps enough costs the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectron2.config import CfgNode as CfgNode_
from detectron2.config import configurable
from detectron2.structures import Instances, pairwise_iou
from detectron2.tracking.base_tracker import TRACKER_HEADS_REGISTRY, tracker_arguments
from detectron2.tracking.hungarian_tracker import BaseHungarianTracker
from detectron2.tracking.utils import LARGE_COST_VALUE, create_prediction_pairs

__all__ = [
    "BaseHungarianTracker",
    "CfgNode_",
    "Instances",
    "VanillaHungarianBBoxIOUTracker",
    "configurable",
    "create_prediction_pairs",
    "pairwise_iou",
]


@TRACKER_HEADS_REGISTRY.register()
class VanillaHungarianBBoxIOUTracker(BaseHungarianTracker):
    """As many pairs above the IoU threshold as possible; rest is paired with what is left.

    When objects come and go in the same frame, a new object may so inherit the identity of one
    that has left.

    Attributes:
        cost_dtype: of the cost matrix. The original counts in whole numbers, which leaves nothing
            of a cost such as -0.7; a subclass that sets ``np.float64`` gets its costs as they are.
    """

    cost_dtype: type = np.int64

    @configurable
    def __init__(
        self,
        *,
        video_height: int,
        video_width: int,
        max_num_instances: int = 200,
        max_lost_frame_count: int = 0,
        min_box_rel_dim: float = 0.02,
        min_instance_period: int = 1,
        track_iou_threshold: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            video_height, video_width, max_num_instances, max_lost_frame_count,
            min_box_rel_dim, min_instance_period: see `BaseHungarianTracker`.
            track_iou_threshold: lowest IoU of a pair that is preferred.
        """
        super().__init__(
            video_height=video_height,
            video_width=video_width,
            max_num_instances=max_num_instances,
            max_lost_frame_count=max_lost_frame_count,
            min_box_rel_dim=min_box_rel_dim,
            min_instance_period=min_instance_period,
            **kwargs,
        )
        self._track_iou_threshold = track_iou_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode_) -> dict[str, Any]:
        return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **tracker_arguments(cfg)}

    def build_cost_matrix(self, instances: Instances, prev_instances: Instances) -> np.ndarray:
        """(N, M) costs: large, except for pairs above the threshold."""
        iou_all = pairwise_iou(instances.pred_boxes, prev_instances.pred_boxes)
        pairs = create_prediction_pairs(
            instances, prev_instances, iou_all, threshold=self._track_iou_threshold
        )
        size = (len(instances), len(prev_instances))
        costs: np.ndarray = np.full(size, LARGE_COST_VALUE, dtype=self.cost_dtype)
        return self.assign_cost_matrix_values(costs, pairs)

    def assign_cost_matrix_values(
        self, cost_matrix: np.ndarray, bbox_pairs: list[dict[str, Any]]
    ) -> np.ndarray:
        """Set the cost of each pair to -1, in place, and return the matrix."""
        for pair in bbox_pairs:
            cost_matrix[pair["idx"]][pair["prev_idx"]] = -1
        return cost_matrix
