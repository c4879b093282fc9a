"""Models as ExecuTorch programs: fixed shapes, XNNPACK where it can, portable kernels elsewhere."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from detectron2.export._batched_trace import example_batch
from detectron2.export.batched import BatchedModel, UnsupportedModelError
from detectron2.export.calibration import Batches, evenly_chosen
from detectron2.export.info import ExportInfo
from detectron2.export.runtimes.executorch import INFO_NAME, quiet
from detectron2.export.tracing import replaced

__all__ = ["write_executorch", "write_int8_executorch"]


# What XNNPACK computes. Arithmetic on boxes is left to the portable kernels: each piece of it would
# be a network of its own, of a few numbers, that takes seconds to prepare.
_LAYERS = (
    *("ConvolutionConfig", "LinearConfig", "AddmmConfig", "MMConfig", "BMMConfig"),
    *("BatchNormConfig", "AddConfig", "ReLUConfig", "MaxPool2dConfig", "AvgPoolingConfig"),
    *("MeanDimConfig", "UpsampleBilinear2dConfig"),
)


class _Fixed(nn.Module):
    """A padded model; what only matters to gradients is left out."""

    def __init__(self, batched: BatchedModel) -> None:
        super().__init__()
        self.batched = batched

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        from detectron2.export.tracing import PADDED_SUBSTITUTES

        with replaced(PADDED_SUBSTITUTES):
            return self.batched(images, image_sizes)


def write_executorch(batched: BatchedModel, info: ExportInfo, path: Path) -> None:
    """Write a .pte file for `info.batch` images of `info.image_size`.

    Raises:
        UnsupportedModelError: `torch.export` or ExecuTorch cannot take the model.
    """
    with _refusing():
        _write(_program(batched, info), info, path)


def write_int8_executorch(
    batched: BatchedModel,
    info: ExportInfo,
    path: Path,
    images: Sequence[np.ndarray],
    float_parts: Collection[str],
) -> int:
    """Write a .pte file with 8-bit integers, and return the number of layers that have them.

    Raises:
        UnsupportedModelError: `torch.export` or ExecuTorch cannot take the model.
    """
    from detectron2.export import _int8_pt2e as pt2e

    images = evenly_chosen(images, pt2e.MOST_IMAGES)
    info.int8_images = len(images)
    with _refusing():
        program = _program(batched, info)
        graph: Any = program.module()
        quantizer = pt2e.xnnpack_quantizer(graph, float_parts)
        graph = pt2e.quantized_graph(graph, quantizer, Batches(info, images))
        inputs = program.example_inputs[0]
        _write(torch.export.export(graph, inputs, strict=False), info, path)
    return pt2e.integer_layers(graph)


def _program(batched: BatchedModel, info: ExportInfo) -> ExportedProgram:
    example = example_batch(batched.model, info.batch, info.image_size)
    return torch.export.export(_Fixed(batched).eval(), example, strict=False)


def _write(program: ExportedProgram, info: ExportInfo, path: Path) -> None:
    from executorch.backends.xnnpack.partition import config
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    # Defines how operations that round to 8 bits are written.
    importlib.import_module("executorch.kernels.quantized")
    layers = [getattr(config, name) for name in _LAYERS if hasattr(config, name)]
    constants: dict[str, Any] = {INFO_NAME: info.to_json()}
    edge = to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner(layers)],
        constant_methods=constants,
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    with open(path, "wb") as stream:
        edge.to_executorch().write_to_file(stream)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Without gradients and warnings; errors of the compiler become one sentence."""
    with torch.no_grad(), quiet():
        try:
            yield
        except Exception as error:  # every pass of the compiler has errors of its own
            problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnsupportedModelError(f"ExecuTorch cannot take the model: {problem}") from error
