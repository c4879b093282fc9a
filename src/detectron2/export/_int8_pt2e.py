"""Eight-bit integers in programs of `torch.export`, by torchao's PT2E flow."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from detectron2.export.calibration import stays_float
from detectron2.export.learnt_ranges import Ranges, layer_called, scale_and_zero_point

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
        converted = convert_pt2e(prepared)
    _drop_unused(converted)
    return converted


def _drop_unused(graph: GraphModule) -> None:
    """Remove tensors that no operation reads: a file would hold the float weights as well."""
    graph.graph.eliminate_dead_code()
    graph.recompile()
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    names = [name for name, _ in (*graph.named_parameters(), *graph.named_buffers())]
    for name in names:
        if name not in read:
            owner, _, last = name.rpartition(".")
            delattr(graph.get_submodule(owner), last)


def xnnpack_quantizer(graph: GraphModule, float_parts: Collection[str]) -> Any:
    """What XNNPACK computes in integers: layers, and sums between layers.

    Every layer of the graph gets weights of its own.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    _copy_shared_weights(graph)
    quantizer = XNNPACKQuantizer()
    config = get_symmetric_quantization_config(is_per_channel=True)
    for operation in (_CONV, _LINEAR, _ADD):
        quantizer.set_operator_type(operation, config)
    # A layer is chosen together with its weight, which comes from no module.
    quantizer.set_filter_function(
        lambda node: node.op == "get_attr" or not stays_float(_path(node), float_parts)
    )
    return quantizer


def x86_quantizer(
    graph: GraphModule, float_parts: Collection[str], ranges: Ranges | None = None
) -> Any:
    """What oneDNN's integer kernels for x86 compute: convolutions and products.

    torchao's quantizer of that name refuses modules that are called once for each level of a
    pyramid, so it lends only its ranges and numbers of bits.

    Args:
        ranges: of inputs, learnt in training; others are calibrated.
    """
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        get_default_x86_inductor_quantization_config,
    )

    config = get_default_x86_inductor_quantization_config()

    class Layers(Quantizer):
        def annotate(self, model: GraphModule) -> GraphModule:
            for node in model.graph.nodes:
                if node.target in (_CONV, _LINEAR) and not stays_float(_path(node), float_parts):
                    inputs = {
                        node.args[0]: _learnt(_path(node), ranges or {}) or config.input_activation,
                        node.args[1]: config.weight,
                    }
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        input_qspec_map=inputs, _annotated=True
                    )
            return model

        def validate(self, model: GraphModule) -> None:
            """Nothing that could be wrong."""

    return Layers()


def _learnt(path: str, ranges: Ranges) -> Any:
    """How the inputs of a layer become uint8, if training has learnt their range."""
    from torchao.quantization.pt2e.quantizer import FixedQParamsQuantizationSpec

    layer = layer_called(path, ranges)
    if layer is None:
        return None
    scale, zero_point = scale_and_zero_point(*ranges[layer])
    return FixedQParamsQuantizationSpec(
        dtype=torch.uint8,
        scale=scale,
        zero_point=zero_point,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
    )


def integer_layers(graph: GraphModule) -> int:
    """Number of layers in a converted graph whose weights are integers."""
    return sum(
        node.target in (_CONV, _LINEAR, _DECONV) and "dequantize" in str(node.args[1])
        for node in graph.graph.nodes
    )


def _copy_shared_weights(graph: GraphModule) -> None:
    """Copy weights that several layers share, as heads do that run once for each level.

    ExecuTorch 1.5 cannot load a file in which quantized layers of several XNNPACK networks share
    a constant.
    """
    for node in list(graph.graph.nodes):
        if node.target not in (_CONV, _LINEAR):
            continue
        for weight in node.args[1:3]:
            if isinstance(weight, Node) and weight.op == "get_attr" and len(weight.users) > 1:
                name = f"{node.name}_{weight.name}"
                value = functools.reduce(getattr, str(weight.target).split("."), graph)
                copied = torch.nn.Parameter(value.detach().clone(), requires_grad=False)
                graph.register_parameter(name, copied)
                with graph.graph.inserting_before(node):
                    own = graph.graph.get_attr(name)
                own.meta = dict(weight.meta)
                node.replace_input_with(weight, own)
    graph.recompile()


def _path(node: Node) -> str:
    """Path of the module that a node comes from."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return stack[-1].replace(".", "/") if stack else ""
