"""Models as programs of `torch.export`, compiled by AOTInductor where a C++ compiler is there."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from detectron2.export._aten_ops import level_by_level
from detectron2.export._batched_trace import TraceableBatch, example_batch
from detectron2.export.batched import BatchedModel, UnsupportedModelError
from detectron2.export.calibration import Batches, evenly_chosen
from detectron2.export.info import ExportInfo
from detectron2.export.learnt_ranges import Ranges
from detectron2.export.runtimes.pt2 import INFO_NAME, in_units
from detectron2.ops.nms.reference import batched_nms_reference
from detectron2.ops.nms_rotated.reference import batched_nms_rotated_reference
from detectron2.ops.roi_align.reference import roi_align_reference
from detectron2.utils.env import TORCH_VERSION

__all__ = [
    "COMPILED",
    "UNCOMPILED",
    "cpp_compiler",
    "exported_program",
    "write_int8_pt2",
    "write_pt2",
]

logger = logging.getLogger(__name__)

COMPILED = "AOTInductor package"
UNCOMPILED = "ExportedProgram"

# Bounds of what is left open; without them products of sides overflow in the compiler.
MAX_SIDE = 1 << 14  # pixels
MAX_BATCH = 1 << 10
_EXAMPLE_SCALE = 3


def _of_any_number(batched_nms: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same NMS with one more box, of no class and below all others.

    A graph with `while_loop` does not hold for a number of boxes that may be zero.
    """

    def run(boxes: Tensor, scores: Tensor, class_ids: Tensor, iou_threshold: float) -> Tensor:
        kept = batched_nms(
            torch.cat([boxes, boxes.new_zeros(1, boxes.shape[1])]),
            torch.cat([scores, scores.new_full((1,), -torch.inf)]),
            torch.cat([class_ids, class_ids.new_full((1,), -1)]),
            iou_threshold,
        )
        return kept[(kept < boxes.shape[0]).nonzero()[:, 0]]

    return run


_batched_nms = _of_any_number(batched_nms_reference)


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return _batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)


# What a graph of PyTorch operations and `while_loop` can hold.
PT2_OPS: dict[str, Callable[..., Any]] = {
    "nms": _nms,
    "batched_nms": _batched_nms,
    "batched_nms_rotated": _of_any_number(batched_nms_rotated_reference),
    "multilevel_roi_align": level_by_level(roi_align_reference),
}


class _InUnits(nn.Module):
    """A batched model that takes images as `in_units` gives them.

    Their sides are then products of a number and a variable, and so are those of all maps. Sides
    that are variables make the sizes of maps quotients, with which the compiler takes minutes.
    """

    def __init__(self, batched: BatchedModel) -> None:
        super().__init__()
        self.form = TraceableBatch(batched, PT2_OPS)

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        return self.form(images.flatten(4, 5).flatten(2, 3), image_sizes)


def cpp_compiler() -> str | None:
    """The C++ compiler that AOTInductor would call, or None."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


def exported_program(batched: BatchedModel, info: ExportInfo) -> ExportedProgram:
    """The batched form of a model as a graph for the sizes that `info` leaves open.

    Raises:
        UnsupportedModelError: `torch.export` cannot follow the model.
    """
    # Large enough for maps of the coarsest level to have several rows: a graph that was recorded
    # with a single one might hold for no other number.
    example = example_batch(batched.model, info.batch, info.image_size, _EXAMPLE_SCALE)
    unit = info.side_multiple
    if unit == 1:
        plain = TraceableBatch(batched, PT2_OPS)
        return _recorded(plain.eval(), example, (_shapes(info),))  # of the one parameter *inputs
    example = (in_units(example[0], unit), example[1])
    return _recorded(_InUnits(batched).eval(), example, _shapes(info))


def _shapes(info: ExportInfo) -> tuple[dict[int, Any], dict[int, Any]]:
    """Which axes of `images` and `image_sizes` are variables."""
    images: dict[int, Any] = {}
    unit = info.side_multiple
    if info.image_size is None:
        images = {
            axis: Dim(name, min=1, max=MAX_SIDE // unit)
            for axis, name in ((2, "height"), (3 if unit == 1 else 4, "width"))
        }
    sizes: dict[int, Any] = {}
    if info.batch is None:
        images[0] = sizes[0] = Dim("batch", min=1, max=MAX_BATCH)
    return images, sizes


def _recorded(module: nn.Module, example: tuple[Tensor, ...], shapes: Any) -> ExportedProgram:
    if TORCH_VERSION < (2, 7):
        raise UnsupportedModelError(
            f"Files of torch.export take torch 2.7 or later; this is {torch.__version__}."
        )
    oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)
    with torch.no_grad(), _quiet(), oblivious:
        try:
            return torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch.export, symbolic shapes and models have each their own
            problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnsupportedModelError(
                f"torch.export cannot follow the model: {problem}"
            ) from error


def write_pt2(batched: BatchedModel, info: ExportInfo, path: Path, compile: bool = True) -> None:
    """Write a .pt2 file; `info.contents` then says which of the two kinds it is.

    Args:
        compile: with AOTInductor, if a C++ compiler is there.
    """
    _write(exported_program(batched, info), info, path, compile)


def write_int8_pt2(
    batched: BatchedModel,
    info: ExportInfo,
    path: Path,
    compile: bool,
    images: Sequence[np.ndarray],
    float_parts: Collection[str],
    ranges: Ranges | None = None,
) -> int:
    """Write a .pt2 file with 8-bit integers, and return the number of layers that have them."""
    from detectron2.export import _int8_pt2e as pt2e

    images = evenly_chosen(images, pt2e.MOST_IMAGES)
    info.int8_images = len(images)
    unit = info.side_multiple
    batches = [(in_units(batch, unit), sizes) for batch, sizes in Batches(info, images)]
    program = exported_program(batched, info)
    with _quiet():
        graph: Any = program.module()
        quantizer = pt2e.x86_quantizer(graph, float_parts, ranges or {})
        graph = pt2e.quantized_graph(graph, quantizer, batches)
    _write(_recorded(graph, program.example_inputs[0], _shapes(info)), info, path, compile)
    return pt2e.integer_layers(graph)


def _write(program: ExportedProgram, info: ExportInfo, path: Path, compile: bool) -> None:
    if compile and cpp_compiler() is None:
        logger.warning("There is no C++ compiler, so %s holds the graph uncompiled.", path.name)
        compile = False
    if not compile:
        info.contents = UNCOMPILED
        torch.export.save(program, str(path), extra_files={INFO_NAME: info.to_json()})
        return
    info.contents = COMPILED
    with torch.no_grad(), _quiet():
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={
                "aot_inductor.metadata": {INFO_NAME: info.to_json()},
                # Only then are layers between 8-bit numbers computed in integers.
                "freezing": bool(info.int8_images),
                "layout_optimization": not counts_reach_convolutions(program),
            },
        )


def counts_reach_convolutions(program: ExportedProgram) -> bool:
    """Whether a convolution takes a number of boxes that is found while the graph runs.

    Inductor gives inputs of convolutions its preferred layout, channels last, and asks a fake
    convolution for the layout of the output. Where the number of boxes is unknown the fake one says
    "contiguous", the kernel returns channels last, and what follows reads the numbers in the wrong
    order, without an error (torch 2.13, `has_guarding_hint` in torch/_subclasses/fake_impls.py).
    Without a preferred layout both are contiguous.
    """
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols  # takes a moment

    for node in program.graph.nodes:
        if str(node.target).startswith("aten.conv"):  # conv2d, conv_transpose2d
            found = node.meta.get("val")
            if isinstance(found, Tensor) and free_unbacked_symbols(found):
                return True
    return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # The exporter and the compiler warn of their own use of what PyTorch deprecates.
        warnings.simplefilter("ignore")
        yield
