"""8-bit layers of a loaded graph, computed by integer kernels instead of floats."""

import importlib

import pytest
import torch
from torch import nn

from detectron2.export.runtimes import x86_integers

pytestmark = pytest.mark.skipif(
    not x86_integers.can_compute_integers(),
    reason="the processor has no 8-bit instructions, so graphs stay as they are",
)


class Written(nn.Module):
    """Layers between 8-bit numbers as torchao writes them."""

    groups = 2

    def __init__(self):
        super().__init__()
        importlib.import_module("torch.ao.quantization.fx._decomposed")
        for name, shape in {"a": (8, 4), "b": (6, 8 // self.groups), "c": (5, 6)}.items():
            kernel = () if name == "c" else (3, 3)
            weight = torch.randint(-127, 128, (*shape, *kernel), dtype=torch.int8)
            self.register_buffer(name, weight)
            self.register_buffer(f"{name}_scale", torch.rand(shape[0]) * 0.01 + 0.001)
            self.register_buffer(f"{name}_zero", torch.zeros(shape[0], dtype=torch.int64))
            self.register_buffer(f"{name}_bias", torch.randn(shape[0]))

    def weight(self, name):
        values = (getattr(self, f"{name}{end}") for end in ("", "_scale", "_zero"))
        ops = torch.ops.quantized_decomposed
        return ops.dequantize_per_channel(*values, 0, -128, 127, torch.int8)

    def rounded(self, x, *way):
        ops = torch.ops.quantized_decomposed
        x = ops.quantize_per_tensor(x, *way, 0, 255, torch.uint8)
        return ops.dequantize_per_tensor(x, *way, 0, 255, torch.uint8)

    def forward(self, x):
        conv = nn.functional.conv2d
        x = self.rounded(x, 0.02, 120)
        x = conv(x, self.weight("a"), self.a_bias, padding=1).relu()
        x = self.rounded(x, 0.05, 0)
        x = conv(x, self.weight("b"), self.b_bias, stride=2, groups=self.groups)
        pooled = self.rounded(x.mean(dim=(2, 3)), 0.1, 128)
        return x, nn.functional.linear(pooled, self.weight("c"), self.c_bias).relu()


def graphs(module):
    """The graph as it is written, and with integer kernels; how many layers they compute."""
    exported = torch.export.export(
        module, (torch.randn(3, 4, 17, 14),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    changed = exported.module()
    return exported.module(), changed, x86_integers.use_integer_kernels(changed)


def test_integer_kernels_compute_what_the_graph_says():
    torch.manual_seed(0)
    written, fast, count = graphs(Written())
    assert count == 3
    left = [str(node.target) for node in fast.graph.nodes if node.op == "call_function"]
    assert not [name for name in left if "quantize" in name or "conv" in name or "relu" in name]
    x = torch.randn(3, 4, 17, 14)
    for found, expected in zip(fast(x), written(x)):
        assert found.shape == expected.shape
        # A number that lies between two steps may be rounded to the other one.
        assert (found - expected).abs().mean() < 0.002 * expected.abs().max()
    # No image and no box are no problem.
    maps, scores = fast(torch.zeros(0, 4, 17, 14))
    assert maps.shape == (0, 6, 8, 6) and scores.shape == (0, 5)
    assert maps.dtype == scores.dtype == torch.float32


class Others(Written):
    def forward(self, x):
        float_weight = nn.functional.conv2d(self.rounded(x, 0.02, 3), self.a.float())
        return float_weight, nn.functional.conv2d(x, self.weight("a"))


def test_layers_that_do_not_read_and_hold_integers_stay():
    written, same, count = graphs(Others())
    assert count == 0
    x = torch.rand(2, 4, 17, 14)
    for found, expected in zip(same(x), written(x)):
        torch.testing.assert_close(found, expected)
