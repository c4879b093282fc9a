"""Eight-bit integers in programs of `torch.export`, by torchao's PT2E flow."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from detectron2.export.calibration import LAST_LAYERS, QUANTIZED_PARTS, stays_float

__all__ = [
    "MOST_IMAGES",
    "integer_layers",
    "quantized_graph",
    "require_torchao",
    "x86_quantizer",
    "xnnpack_quantizer",
]

# Histograms of every activation take longer than the network itself, and settle soon.
MOST_IMAGES = 32

_CONV = torch.ops.aten.conv2d.default
_LINEAR = torch.ops.aten.linear.default
_DECONV = torch.ops.aten.conv_transpose2d.input
_ADD = torch.ops.aten.add.Tensor


def require_torchao() -> None:
    """Check that torchao is installed.

    Raises:
        ImportError: it is not; the message says what to install.
    """
    # It complains about its GPU kernels where there is no GPU.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    try:
        importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    except ImportError as error:
        raise ImportError(
            'INT8 for pt2 and executorch needs the package "torchao": '
            'pip install "detectron2[mobile]".'
        ) from error


def quantized_graph(
    graph: GraphModule, quantizer: Any, batches: Iterable[tuple[Tensor, ...]]
) -> GraphModule:
    """The graph with 8-bit weights, and activations rounded to 8 bits before the layers that
    the quantizer chose.

    Args:
        graph: ``ExportedProgram.module()``.
        quantizer: see `x86_quantizer` and `xnnpack_quantizer`.
        batches: inputs to calibrate on.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    with torch.no_grad():
        prepared = prepare_pt2e(graph, quantizer)
        for inputs in batches:
            prepared(*inputs)
        return convert_pt2e(prepared)


def xnnpack_quantizer(graph: GraphModule, float_parts: Collection[str]) -> Any:
    """What XNNPACK computes in integers: layers, and sums between layers."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    quantizer = XNNPACKQuantizer()
    config = get_symmetric_quantization_config(is_per_channel=True)
    for operation in (_CONV, _LINEAR, _ADD):
        quantizer.set_operator_type(operation, config)
    quantizer.set_filter_function(lambda node: not stays_float(_path(node), float_parts))
    return quantizer


def x86_quantizer(graph: GraphModule, float_parts: Collection[str]) -> Any:
    """What Inductor's integer kernels for x86 compute."""
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer()
    config = get_default_x86_inductor_quantization_config()
    # What is named first counts.
    for name in _modules(graph, lambda part: part in LAST_LAYERS.union(float_parts)):
        quantizer.set_module_name_qconfig(name, None)
    for name in _modules(graph, lambda part: part in QUANTIZED_PARTS):
        quantizer.set_module_name_qconfig(name, config)
    return quantizer


def integer_layers(graph: GraphModule) -> int:
    """Number of layers in a converted graph whose weights are integers."""
    return sum(
        node.target in (_CONV, _LINEAR, _DECONV) and "dequantize" in str(node.args[1])
        for node in graph.graph.nodes
    )


def _modules(graph: GraphModule, chosen: Callable[[str], bool]) -> list[str]:
    """Paths of modules whose last part is chosen, as the nodes of the graph name them."""
    paths = {path for node in graph.graph.nodes for path in _stack(node)}
    return sorted(path for path in paths if chosen(path.rpartition(".")[2].partition("@")[0]))


def _path(node: Node) -> str:
    stack = _stack(node)
    return stack[-1].replace(".", "/") if stack else ""


def _stack(node: Node) -> list[str]:
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
