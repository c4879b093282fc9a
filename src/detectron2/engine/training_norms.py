"""Frozen batch normalization in a training on a GPU."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.layers import FrozenBatchNorm2d

__all__ = ["KeptFrozenBatchNorm2d", "keep_constants_of_norms"]


class KeptFrozenBatchNorm2d(FrozenBatchNorm2d):
    """A `FrozenBatchNorm2d` that keeps its scale and shift from step to step.

    Six of its seven operations have to do with C numbers that stay as they are; with a few images
    per GPU the host takes longer to launch them than the GPU to run them. The class of a
    `FrozenBatchNorm2d` is changed to this one; names and bits stay.
    """

    _kept: tuple[Any, Tensor, Tensor, list[Any]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        # A compiler folds constants itself, and would compile anew for each layer's addresses.
        is_compiling = torch.compiler.is_compiling()
        if is_compiling or not (x.requires_grad and torch.is_grad_enabled()):
            return super().forward(x)
        state = x.dtype, self._state()
        if self._kept is None or self._kept[0] != state:
            # Where the buffers lie is kept, too: new ones at the same address would look the same.
            storages = [buffer.untyped_storage() for buffer in self.buffers()]
            self._kept = (state, *self.scale_and_shift(x.dtype), storages)
        _, scale, shift, _ = self._kept
        return torch.addcmul(shift, x, scale)

    def _state(self) -> list[Any]:
        """Equal for two calls only if no buffer was replaced or written to in between."""
        buffers = (buffer for buffer in self._buffers.values() if buffer is not None)
        return [(x.data_ptr(), x.is_inference() or x._version) for x in buffers]

    def __prepare_scriptable__(self) -> Any:
        """What `torch.jit.script` compiles: the plain layer."""
        plain: Any = copy.copy(self)
        plain.__class__ = FrozenBatchNorm2d
        plain.__dict__.pop("_kept", None)
        return plain

    def __getstate__(self) -> dict[str, Any]:
        # Copies and files hold the buffers; the rest is made again.
        return {**self.__dict__, "_kept": None}


def keep_constants_of_norms(model: nn.Module) -> None:
    """Let the frozen batch normalization of a model keep its constants, in place."""
    for module in model.modules():
        if type(module) is FrozenBatchNorm2d:
            module.__class__ = KeptFrozenBatchNorm2d
