"""Tracking by the overlap of boxes, pair by pair."""

from __future__ import annotations

import copy
from typing import Any

import torch

from detectron2.config import CfgNode as CfgNode_
from detectron2.config import configurable
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.tracking.base_tracker import (
    TRACKER_HEADS_REGISTRY,
    BaseTracker,
    tracker_arguments,
)
from detectron2.tracking.utils import (
    add_track_fields,
    create_prediction_pairs,
    with_lost,
    with_plain_size,
)

__all__ = [
    "BBoxIOUTracker",
    "BaseTracker",
    "Boxes",
    "CfgNode_",
    "Instances",
    "configurable",
    "pairwise_iou",
]


@TRACKER_HEADS_REGISTRY.register()
class BBoxIOUTracker(BaseTracker):
    """Hands identities on to the first instance that overlaps the previous one enough."""

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
            video_height, video_width: size of the frames in pixels.
            max_num_instances: kept as an attribute; the number of instances is not limited.
            max_lost_frame_count: frames that an instance may miss before it is forgotten.
            min_box_rel_dim: lowest height and width, relative to the video, of an instance that
                is remembered while it is missed.
            min_instance_period: it must have been seen in more frames than this.
            track_iou_threshold: lowest IoU with the previous frame.
        """
        super().__init__(**kwargs)
        self._video_height = video_height
        self._video_width = video_width
        self._max_num_instances = max_num_instances
        self._max_lost_frame_count = max_lost_frame_count
        self._min_box_rel_dim = min_box_rel_dim
        self._min_instance_period = min_instance_period
        self._track_iou_threshold = track_iou_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode_) -> dict[str, Any]:
        return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **tracker_arguments(cfg)}

    def update(self, instances: Instances) -> Instances:
        """As `BaseTracker.update`; instances that this frame misses follow at the end."""
        instances = self._initialize_extra_fields(with_plain_size(instances))
        if self._prev_instances is not None:
            iou_all = pairwise_iou(instances.pred_boxes, self._prev_instances.pred_boxes)
            pairs = self._create_prediction_pairs(instances, iou_all)
            self._reset_fields()
            self._match(instances, pairs)
            instances = self._assign_new_id(instances)
            instances = self._merge_untracked_instances(instances)
        self._prev_instances = copy.deepcopy(instances)
        return instances

    def _initialize_extra_fields(self, instances: Instances) -> Instances:
        """Add the fields of identity; on the first frame every instance is new."""
        add_track_fields(instances)
        if self._prev_instances is None:
            count = len(instances)
            instances.ID = list(range(self._id_count, self._id_count + count))
            instances.ID_period = [1] * count
            instances.lost_frame_count = [0] * count
            self._id_count += count
        return instances

    def _create_prediction_pairs(
        self, instances: Instances, iou_all: torch.Tensor
    ) -> list[dict[str, Any]]:
        """All pairs of a current and a previous instance, however little they overlap."""
        assert self._prev_instances is not None
        return create_prediction_pairs(instances, self._prev_instances, iou_all, threshold=0.0)

    def _reset_fields(self) -> None:
        """Start matching a new frame."""
        previous = () if self._prev_instances is None else range(len(self._prev_instances))
        self._matched_idx = set()
        self._matched_ID = set()
        self._untracked_prev_idx = set(previous)

    def _match(self, instances: Instances, pairs: list[dict[str, Any]]) -> None:
        """Hand identities on in the order of the pairs, each at most once."""
        for pair in pairs:
            index, identity = pair["idx"], pair["prev_id"]
            if (
                index in self._matched_idx
                or identity in self._matched_ID
                or pair["IoU"] < self._track_iou_threshold
            ):
                continue
            instances.ID[index] = identity
            instances.ID_period[index] = pair["prev_period"] + 1
            instances.lost_frame_count[index] = 0
            self._matched_idx.add(index)
            self._matched_ID.add(identity)
            self._untracked_prev_idx.remove(pair["prev_idx"])

    def _assign_new_id(self, instances: Instances) -> Instances:
        """Give a new identity to every instance without a partner."""
        for index in range(len(instances)):
            if index not in self._matched_idx:
                instances.ID[index] = self._id_count
                instances.ID_period[index] = 1
                instances.lost_frame_count[index] = 0
                self._id_count += 1
        return instances

    def _merge_untracked_instances(self, instances: Instances) -> Instances:
        """Append previous instances that this frame misses, unless they are to be forgotten."""
        assert self._prev_instances is not None
        return with_lost(
            instances,
            self._prev_instances,
            self._untracked_prev_idx,
            video_size=(self._video_height, self._video_width),
            max_lost_frame_count=self._max_lost_frame_count,
            min_box_rel_dim=self._min_box_rel_dim,
            min_instance_period=self._min_instance_period,
        )
