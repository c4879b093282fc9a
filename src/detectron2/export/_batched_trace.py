"""Traces of the batched form of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.export._aten_ops import ATEN_OPS
from detectron2.export.batched import BatchedModel
from detectron2.export.batched.postprocessed import PostprocessedBatch
from detectron2.export.tracing import quiet_tracer, traceable_model

__all__ = ["TraceableBatch", "example_batch", "example_inputs", "trace_batched"]

# Images to trace with: two sizes, neither square, so that nothing agrees by accident.
_EXAMPLE_SIZES = ((96, 128), (64, 160))


def example_batch(
    model: Any,
    batch: int | None = None,
    image_size: Sequence[int] | None = None,
    scale: int = 1,
) -> tuple[Tensor, Tensor]:
    """Noisy images as a batch for `model`, and their sizes.

    Args:
        batch: number of images; None takes two of different sizes.
        image_size: height and width of the batch, if they are fixed.
        scale: factor of the sizes.
    """
    sizes = torch.tensor([_EXAMPLE_SIZES[index % 2] for index in range(batch or 2)]) * scale
    height, width = image_size or sizes.amax(dim=0).tolist()
    sizes = sizes.minimum(torch.tensor([height, width]))
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(len(sizes), model.pixel_mean.shape[0], height, width, generator=generator)
    return (noise * 255).to(model.pixel_mean.device), sizes.to(model.pixel_mean.device)


def example_inputs(
    batched: BatchedModel, batch: int | None = None, image_size: Sequence[int] | None = None
) -> tuple[Tensor, ...]:
    """What a batched model takes; see `example_batch`."""
    images, sizes = example_batch(batched.model, batch, image_size)
    return (images, sizes, sizes) if isinstance(batched, PostprocessedBatch) else (images, sizes)


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

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with traceable_model(self.substitutes):
            return self.batched(*inputs)


def trace_batched(
    batched: BatchedModel, batch: int | None = None, image_size: Sequence[int] | None = None
) -> torch.jit.ScriptModule:
    """The batched form of a model as TorchScript that needs no library but PyTorch.

    Args:
        batch, image_size: see `example_batch`.
    """
    example = example_inputs(batched, batch, image_size)
    with torch.no_grad(), quiet_tracer():
        return torch.jit.trace(TraceableBatch(batched).eval(), example, check_trace=False)
