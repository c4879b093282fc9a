"""8-bit layers of a loaded graph, computed by oneDNN's integer kernels.

A file of `torch.export` says "8-bit numbers to floats, layer, floats to 8-bit numbers", which
PyTorch computes as it is written: in floats. Here such layers become calls of the kernels that
Inductor would call, which take and give 8-bit numbers.
"""

import functools
import importlib
import platform

import torch
from torch import nn
from torch.fx import GraphModule, Node

_ATEN = torch.ops.aten
_PIECE = 1 << 16  # numbers, a quarter of a megabyte
_RELU = (_ATEN.relu.default, _ATEN.relu_.default)


def can_compute_integers() -> bool:
    """Whether this processor has 8-bit instructions that do not overflow, and PyTorch uses them."""
    known = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return bool(x86 and torch.backends.mkldnn.is_available() and known())


def use_integer_kernels(graph: GraphModule) -> int:
    """Replace convolutions and products of 8-bit numbers by integer kernels, in place.

    Returns:
        How many were replaced.
    """
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # defines the operations
    count = 0
    for node in list(graph.graph.nodes):
        kind = _LAYERS.get(node.target)
        if kind is not None and _reads_integers(node):
            _replace_layer(graph, node, kind, f"integer_layer_{count}")
            count += 1
    for node in list(graph.graph.nodes):
        if _is(node, "quantize_per_tensor") and node.args[-1] == torch.uint8:
            node.target = _round_to_uint8
            node.args = node.args[:3]
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return count


class _Layer(nn.Module):
    """What integer layers have in common.

    Args:
        scale, zero_point: of the uint8 input.
        weight: int8, with a scale for each output channel.
        outputs: scale and zero point of a uint8 output; None gives float32.
        rectified: negative outputs become zero.
    """

    def __init__(self, scale, zero_point, weight, scales, bias, outputs, rectified, *options):
        super().__init__()
        self.inputs, self.outputs = (scale, zero_point), outputs or (1.0, 0)
        self.channels = weight.shape[0]
        self.dtype = torch.float32 if outputs is None else torch.uint8
        self.scales, self.bias = scales.float(), None if bias is None else bias.detach()
        self.zeros = torch.zeros_like(scales, dtype=torch.int32)
        self.attribute = "relu" if rectified else "none"
        self.pack(weight, *options)


class _Convolution(_Layer):
    def pack(self, weight, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
        self.options = [list(stride), list(padding), list(dilation), groups]
        prepack = torch.ops.onednn.qconv_prepack
        self.packed = prepack(weight, self.scales, *self.inputs, *self.options, None)
        self.kernel = weight.shape[2:]

    def forward(self, x):
        if x.numel() == 0:
            return self.of_nothing(x)
        return torch.ops.onednn.qconv2d_pointwise(
            x,
            *self.inputs,
            self.packed,
            self.scales,
            self.zeros,
            self.bias,
            *self.options,
            *self.outputs,
            self.dtype,
            self.attribute,
            [],
            "",
        )

    def of_nothing(self, x):
        stride, padding, dilation, _ = self.options
        sides = [
            (side + 2 * pad - step * (size - 1) - 1) // move + 1
            for side, size, move, pad, step in zip(
                x.shape[2:], self.kernel, stride, padding, dilation
            )
        ]
        return x.new_zeros((x.shape[0], self.channels, *sides), dtype=self.dtype)


class _Product(_Layer):
    def pack(self, weight):
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)

    def forward(self, x):
        if x.numel() == 0:
            return x.new_zeros((*x.shape[:-1], self.channels), dtype=self.dtype)
        return torch.ops.onednn.qlinear_pointwise(
            x,
            *self.inputs,
            self.packed,
            self.scales,
            self.zeros,
            self.bias,
            *self.outputs,
            self.dtype,
            self.attribute,
            [],
            "",
        )


_LAYERS = {_ATEN.conv2d.default: _Convolution, _ATEN.linear.default: _Product}


def _reads_integers(layer: Node) -> bool:
    """Whether a layer reads uint8 numbers, with int8 weights that are constants."""
    x, weight = layer.args[:2]
    return (
        _is(x, "dequantize_per_tensor")
        and x.args[-1] == torch.uint8
        and _is(weight, "dequantize_per_channel")
        and weight.args[0].op == "get_attr"
        and weight.args[3] == 0
        and not isinstance(layer.args[4] if len(layer.args) > 4 else [], str)
    )


def _replace_layer(graph: GraphModule, layer: Node, kind: type[_Layer], name: str) -> None:
    x, weight = layer.args[:2]
    bias = layer.args[2] if len(layer.args) > 2 else None
    last = layer
    if len(layer.users) == 1 and next(iter(layer.users)).target in _RELU:
        last = next(iter(layer.users))
    outputs = _rounding_behind(last)
    values = [_constant(graph, each) for each in (weight.args[0], weight.args[1], bias)]
    module = kind(*x.args[1:3], *values, outputs, last is not layer, *layer.args[3:])
    graph.add_submodule(name, module)
    with graph.graph.inserting_before(layer):
        new = graph.graph.call_module(name, (x.args[0],))
    rounded = [last] if outputs is None else list(last.users)
    for node in rounded:
        node.replace_all_uses_with(new)
    for node in [*rounded, *([last] if outputs else []), *([layer] if last is not layer else [])]:
        graph.graph.erase_node(node)


def _rounding_behind(node: Node) -> tuple[float, int] | None:
    """Scale and zero point, if the outputs of a node are only wanted as uint8 in one rounding."""
    ways = {user.args[1:] if _is(user, "quantize_per_tensor") else None for user in node.users}
    if len(ways) != 1 or None in ways:
        return None
    (scale, zero_point, *_, dtype) = ways.pop()
    return (scale, zero_point) if dtype == torch.uint8 else None


def _round_to_uint8(x: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
    # A piece goes through all steps while it is in the cache: the operation as it is defined
    # reads and writes all numbers five times.
    dense = x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
    rounded = torch.empty_like(dense, dtype=torch.uint8)
    source, target = (each.as_strided((each.numel(),), (1,)) for each in (dense, rounded))
    # Conversion cuts off, so a half more rounds to the nearest.
    offset = torch.tensor(zero_point + 0.5)
    for piece, result in zip(source.split(_PIECE), target.split(_PIECE)):
        result.copy_(torch.add(offset, piece, alpha=1 / scale).clamp_(0, 255.5))
    return rounded


def _is(node: object, name: str) -> bool:
    operation = getattr(torch.ops.quantized_decomposed, name).default
    return isinstance(node, Node) and node.target == operation


def _constant(graph: GraphModule, node: Node | None) -> torch.Tensor | None:
    if node is None:
        return None
    return functools.reduce(getattr, str(node.target).split("."), graph)
