"""What every tracker is: something that gives the instances of a frame their identities."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode as CfgNode_
from detectron2.config import configurable
from detectron2.config.mapping import lookup
from detectron2.config.mapping.tracking import REQUIRED, TRACKER
from detectron2.structures import Instances
from detectron2.utils.registry import Registry, registered

__all__ = [
    "TRACKER_HEADS_REGISTRY",
    "BaseTracker",
    "CfgNode_",
    "Instances",
    "build_tracker_head",
    "configurable",
    "tracker_arguments",
]

TRACKER_HEADS_REGISTRY = Registry("TRACKER_HEADS")
TRACKER_HEADS_REGISTRY.__doc__ = """
Trackers by the name that ``cfg.TRACKER_HEADS.TRACKER_NAME`` gives. Each is called with the config
and has a method ``update``.
"""


class BaseTracker:
    """State that trackers share between frames."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        self._prev_instances: Instances | None = None
        self._matched_idx: set[int] = set()
        self._matched_ID: set[int] = set()
        self._untracked_prev_idx: set[int] = set()
        self._id_count = 0

    @classmethod
    def from_config(cls, cfg: CfgNode_) -> dict[str, Any]:
        raise NotImplementedError(f"{cls.__name__} has no translation from a config.")

    def update(self, predictions: Instances) -> Instances:
        """Identify the instances of the next frame.

        Args:
            predictions: of a detector, with pred_boxes.

        Returns:
            The instances with the fields ID, ID_period (frames seen so far) and
            lost_frame_count (frames missed in a row), lists of integers.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update().")


def build_tracker_head(cfg: CfgNode_) -> BaseTracker:
    """The tracker that ``cfg.TRACKER_HEADS.TRACKER_NAME`` names, built from the config."""
    return registered(TRACKER_HEADS_REGISTRY, cfg.TRACKER_HEADS.TRACKER_NAME)(cfg)


def tracker_arguments(cfg: CfgNode_) -> dict[str, Any]:
    """Constructor arguments that a config sets.

    Raises:
        AssertionError: the size of the video is missing.
    """
    arguments = {}
    for argument, key in TRACKER.items():
        try:
            arguments[argument] = lookup(cfg, key)
        except KeyError:
            if argument in REQUIRED:
                raise AssertionError(
                    f"Trackers need {key} in the config: the height and width of the video."
                ) from None
    return arguments
