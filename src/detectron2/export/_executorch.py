"""Models as ExecuTorch programs: fixed shapes, XNNPACK where it can, portable kernels elsewhere."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.export._batched_trace import example_batch
from detectron2.export.batched import BatchedModel, UnsupportedModelError
from detectron2.export.info import ExportInfo
from detectron2.export.tracing import replaced

__all__ = ["write_executorch"]


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
    from executorch.backends.xnnpack.partition import config
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    from detectron2.export.runtimes.executorch import INFO_NAME

    example = example_batch(batched.model, info.batch, info.image_size)
    layers = [getattr(config, name) for name in _LAYERS if hasattr(config, name)]
    constants: dict[str, Any] = {INFO_NAME: info.to_json()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        try:
            program = torch.export.export(_Fixed(batched).eval(), example, strict=False)
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner(layers)],
                constant_methods=constants,
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            )
            written = edge.to_executorch()
        except Exception as error:  # every pass of the compiler has errors of its own
            problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnsupportedModelError(f"ExecuTorch cannot take the model: {problem}") from error
    with open(path, "wb") as stream:
        written.write_to_file(stream)
