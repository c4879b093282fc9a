"""Whole models whose trunk may run from a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
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
        return nullcontext() if self.graphs is None else self.graphs.lock

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
        if torch.is_autocast_enabled(images.device.type) or _is_listened_to(parts):
            return function(padded(images, bucket))  # the same results, though not recorded
        return graphs(function, images, bucket, _state(parts))


def _state(parts: Sequence[nn.Module]) -> tuple[Any, ...]:
    """Changes when a recording of `parts` would no longer compute what they compute."""
    tensors = chain.from_iterable(chain(part.parameters(), part.buffers()) for part in parts)
    dtypes = {getattr(module, "compute_dtype", None) for part in parts for module in part.modules()}
    return torch.is_inference_mode_enabled(), frozenset(dtypes), *state_of(*tensors)


def _is_listened_to(parts: Sequence[nn.Module]) -> bool:
    """Whether a module has a hook, which a recording would not call."""
    return any(
        module._forward_hooks or module._forward_pre_hooks
        for part in parts
        for module in part.modules()
    )
