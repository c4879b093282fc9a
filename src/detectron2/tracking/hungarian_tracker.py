"""Tracking as an assignment problem: the pairs whose costs have the smallest sum.

H. W. Kuhn, "The Hungarian method for the assignment problem", 1955.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from detectron2.config import CfgNode as CfgNode_
from detectron2.config import configurable
from detectron2.structures import Boxes, Instances
from detectron2.tracking.base_tracker import BaseTracker
from detectron2.tracking.utils import add_track_fields, with_lost, with_plain_size

__all__ = [
    "BaseHungarianTracker",
    "BaseTracker",
    "Boxes",
    "CfgNode_",
    "Instances",
    "configurable",
]


class BaseHungarianTracker(BaseTracker):
    """Assigns previous instances to current ones; a subclass says what a pair costs."""

    @configurable
    def __init__(
        self,
        video_height: int,
        video_width: int,
        max_num_instances: int = 200,
        max_lost_frame_count: int = 0,
        min_box_rel_dim: float = 0.02,
        min_instance_period: int = 1,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            video_height, video_width: size of the frames in pixels.
            max_num_instances: kept as an attribute; the number of instances is not limited.
            max_lost_frame_count: frames that an instance may miss before it is forgotten.
            min_box_rel_dim: lowest height and width, relative to the video, of an instance that
                is remembered while it is missed.
            min_instance_period: it must have been seen in more frames than this.
        """
        super().__init__(**kwargs)
        self._video_height = video_height
        self._video_width = video_width
        self._max_num_instances = max_num_instances
        self._max_lost_frame_count = max_lost_frame_count
        self._min_box_rel_dim = min_box_rel_dim
        self._min_instance_period = min_instance_period

    @classmethod
    def from_config(cls, cfg: CfgNode_) -> dict[str, Any]:
        raise NotImplementedError(f"{cls.__name__} has no translation from a config.")

    def build_cost_matrix(self, instances: Instances, prev_instances: Instances) -> np.ndarray:
        """(N, M) costs of pairing N current with M previous instances."""
        raise NotImplementedError(f"{type(self).__name__} has no build_cost_matrix().")

    def update(self, instances: Instances) -> Instances:
        """As `BaseTracker.update`; instances that this frame misses follow at the end."""
        instances = self._initialize_extra_fields(with_plain_size(instances))
        if self._prev_instances is not None:
            self._untracked_prev_idx = set(range(len(self._prev_instances)))
            costs = self.build_cost_matrix(instances, self._prev_instances)
            matched_idx, matched_prev_idx = _cheapest_pairs(costs)
            instances = self._process_matched_idx(instances, matched_idx, matched_prev_idx)
            instances = self._process_unmatched_idx(instances, matched_idx)
            instances = self._process_unmatched_prev_idx(instances, matched_prev_idx)
        self._prev_instances = copy.deepcopy(instances)
        return instances

    def _initialize_extra_fields(self, instances: Instances) -> Instances:
        """Add the fields of identity; on the first frame every instance is new."""
        add_track_fields(instances)
        if self._prev_instances is None:
            instances = self._process_unmatched_idx(instances, [])
        return instances

    def _process_matched_idx(
        self,
        instances: Instances,
        matched_idx: Sequence[int],
        matched_prev_idx: Sequence[int],
    ) -> Instances:
        """Hand the identity of each matched previous instance on."""
        assert self._prev_instances is not None
        for index, previous in zip(matched_idx, matched_prev_idx):
            instances.ID[index] = self._prev_instances.ID[previous]
            instances.ID_period[index] = self._prev_instances.ID_period[previous] + 1
            instances.lost_frame_count[index] = 0
        return instances

    def _process_unmatched_idx(self, instances: Instances, matched_idx: Sequence[int]) -> Instances:
        """Give a new identity to every instance without a partner."""
        for index in sorted(set(range(len(instances))) - set(map(int, matched_idx))):
            instances.ID[index] = self._id_count
            instances.ID_period[index] = 1
            instances.lost_frame_count[index] = 0
            self._id_count += 1
        return instances

    def _process_unmatched_prev_idx(
        self, instances: Instances, matched_prev_idx: Sequence[int]
    ) -> Instances:
        """Append previous instances that this frame misses, unless they are to be forgotten."""
        assert self._prev_instances is not None
        return with_lost(
            instances,
            self._prev_instances,
            set(range(len(self._prev_instances))) - set(map(int, matched_prev_idx)),
            video_size=(self._video_height, self._video_width),
            max_lost_frame_count=self._max_lost_frame_count,
            min_box_rel_dim=self._min_box_rel_dim,
            min_instance_period=self._min_instance_period,
        )


def _cheapest_pairs(costs: np.ndarray) -> tuple[list[int], list[int]]:
    """min(N, M) rows and columns of an (N, M) matrix whose entries have the smallest sum."""
    from hotcoco.primitives import lsap

    rows, columns = lsap(np.asarray(costs, dtype=np.float64))
    return [int(row) for row in rows], [int(column) for column in columns]
