"""Whole models whose trunk may run from a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.engine.inference.graphs import TrunkGraphs, padded
from detectron2.engine.inference.prepared import Faster, runs_prepared, state_of

__all__ = ["Graphed"]


class Graphed(Faster):
    """A model with a ``backbone`` that may run from recordings.

    Attributes:
        graphs: the recordings; None runs the trunk as it is.
    """

    graphs: TrunkGraphs | None = None

    def become_plain(self) -> None:
        super().become_plain()
        self.__dict__.pop("graphs", None)

    def trunk_in_use(self) -> AbstractContextManager[Any]:
        """Held while output of the trunk is read: another thread's call would overwrite it."""
        return nullcontext() if self.graphs is None else self.graphs.in_use()

    def run_trunk(
        self, function: Callable[[Tensor], Any], images: Tensor, parts: Sequence[nn.Module]
    ) -> Any:
        """``function(images)``, from a recording where there is one.

        Args:
            function: runs `parts` and nothing else.
        """
        model: Any = self
        graphs = self.graphs
        if graphs is None or not graphs.applies_to(images) or not runs_prepared(model):
            return function(images)
        multiple = max(getattr(model.backbone, "size_divisibility", 1), 1)
        bucket = graphs.bucket_of(images.shape[2], images.shape[3], multiple)
        if bucket is None:
            return function(images)
        state, has_hooks = _look_at(parts)
        if has_hooks or torch.is_autocast_enabled(images.device.type):
            return function(padded(images, bucket))  # the same results, though not recorded
        return graphs(function, images, bucket, state)


def _look_at(parts: Sequence[nn.Module]) -> tuple[list[Any], bool]:
    """What a recording of `parts` depends on, and whether a hook listens, which it would not call.

    For a ResNet-50 with a pyramid 0.5 ms; asking for its parameters and buffers by name takes 1.8.
    """
    state: list[Any] = [torch.is_inference_mode_enabled()]
    has_hooks = False
    for part in parts:
        for module in part.modules():
            own = module.__dict__
            has_hooks = has_hooks or bool(own["_forward_hooks"] or own["_forward_pre_hooks"])
            state.append(own.get("compute_dtype"))
            state += state_of(*own["_parameters"].values(), *own["_buffers"].values())
    return state, has_hooks
