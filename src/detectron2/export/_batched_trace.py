"""Traces of the batched form of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.export.batched import BatchedModel
from detectron2.export.tracing import ATEN_OPS, quiet_tracer, traceable_model

__all__ = ["TraceableBatch", "example_batch", "trace_batched"]

# Images to trace with: two sizes, neither square, so that nothing agrees by accident.
_EXAMPLE_SIZES = ((96, 128), (64, 160))


def example_batch(model: Any) -> tuple[Tensor, Tensor]:
    """Two noisy images of different sizes as a batch for `model`, and their sizes."""
    sizes = torch.tensor(_EXAMPLE_SIZES)
    height, width = sizes.amax(dim=0).tolist()
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, model.pixel_mean.shape[0], height, width, generator=generator)
    return (noise * 255).to(model.pixel_mean.device), sizes.to(model.pixel_mean.device)


class TraceableBatch(nn.Module):
    """A batched model whose ops are those that a tracer can write down.

    Args:
        substitutes: see `traceable_model`.
    """

    def __init__(
        self, batched: BatchedModel, substitutes: Mapping[str, Callable[..., Any]] = ATEN_OPS
    ) -> None:
        super().__init__()
        self.batched = batched
        self.substitutes = dict(substitutes)

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        with traceable_model(self.substitutes):
            return self.batched(images, image_sizes)


def trace_batched(batched: BatchedModel) -> torch.jit.ScriptModule:
    """The batched form of a model as TorchScript that needs no library but PyTorch."""
    with torch.no_grad(), quiet_tracer():
        return torch.jit.trace(
            TraceableBatch(batched).eval(), example_batch(batched.model), check_trace=False
        )
