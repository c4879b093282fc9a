"""Ranges that training learnt, in files with 8-bit integers."""

import numpy as np
import pytest
import torch
from small_models import small_config
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine.integer_training import learnt_ranges, round_to_integers
from detectron2.export import _int8_openvino, _int8_pt2e, exporter
from detectron2.export.learnt_ranges import layer_called, scale_and_zero_point
from detectron2.modeling import build_model

LAYERS = (
    "backbone.bottom_up.res2.0.conv1",
    "backbone.bottom_up.res2.1.conv1",
    "backbone.bottom_up.stem.conv1",
    "proposal_generator.rpn_head.conv",
    "roi_heads.box_head.fc1",
    "roi_heads.box_head.0.fc1",
)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("/batched/backbone/bottom_up/res2/res2.1/conv1/Conv/WithoutBiases", 1),
        ("/batched/backbone/bottom_up/stem/conv1/Conv", 2),
        ("/batched/rpn_head/conv_3/Conv/WithoutBiases", 3),
        ("/batched/box_head/fc1/Gemm/WithoutBiases", 4),
        ("/batched/box_head.0/fc1/Gemm", 5),
        ("batched/model/backbone/bottom_up/res2/0/conv1", 0),
        ("batched/model/proposal_generator/rpn_head/conv@2", 3),
        ("/batched/backbone/bottom_up/res3/res3.0/conv1/Conv", None),
        ("/batched/Mul_3", None),
        ("", None),
    ],
)
def test_operations_of_a_graph_are_found_among_the_layers_of_the_model(name, layer):
    assert layer_called(name, LAYERS) == (None if layer is None else LAYERS[layer])


def test_steps_of_a_range_have_one_at_zero():
    assert scale_and_zero_point(0.0, 25.5) == pytest.approx((0.1, 0))
    assert scale_and_zero_point(-1.0, 254.0) == pytest.approx((1.0, 1))
    assert scale_and_zero_point(3.0, 25.5)[1] == 0  # zero is always in it
    assert scale_and_zero_point(0.0, 0.0)[0] > 0


def test_openvino_rounds_inputs_in_the_learnt_ranges():
    openvino = pytest.importorskip("openvino", reason="its graphs are what is changed")
    opset = openvino.opset13
    images = opset.parameter([1, 2, 8, 8], np.float32)
    ends = [np.full((1, 1, 1, 1), value, np.float32) for value in (0, 9, 0, 9)]
    pooled = opset.max_pool(
        opset.fake_quantize(images, *ends, 256), [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]
    )
    sizes = ([1, 1], [0, 0], [0, 0], [1, 1])
    layers = []
    for name in ("res2.0/conv1", "res2.0/shortcut"):
        layer = opset.convolution(pooled.output(0), np.ones((3, 2, 1, 1), np.float32), *sizes)
        layer.set_friendly_name(f"/batched/backbone/res2/{name}/Conv")
        layers.append(layer)
    model = openvino.Model(layers, [images])
    ranges = {"backbone.res2.0.conv1": (0.0, 2.0), "backbone.res2.0.shortcut": (-1.0, 1.5)}
    assert _int8_openvino._take_ranges(model, ranges) == 1
    x = np.linspace(-9, 9, 64, dtype=np.float32).reshape(1, 1, 8, 8).repeat(2, axis=1)
    found = openvino.compile_model(model, "CPU")(x)[0]
    assert found.max() == pytest.approx(2 * 2.0, abs=0.02)
    assert found.min() == pytest.approx(2 * -1.0, abs=0.02)


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x):
        return self.backbone(x)


@pytest.mark.filterwarnings("ignore")  # of what torchao imports, of its own code
def test_programs_of_torch_export_round_inputs_in_the_learnt_ranges():
    pytest.importorskip("torchao", reason="8-bit files of torch.export are made with it")
    _int8_pt2e.require_torchao()
    x = torch.rand(1, 3, 8, 8)
    graph = torch.export.export(Layers().eval(), (x,)).module()
    quantizer = _int8_pt2e.x86_quantizer(graph, (), {"backbone.2": (-1.0, 254.0)})
    graph = _int8_pt2e.quantized_graph(graph, quantizer, [(x,)])
    quantized = [n for n in graph.graph.nodes if "quantize_per_tensor.default" in str(n.target)]
    scales = [node.args[1:3] for node in quantized if "dequantize" not in str(node.target)]
    assert len(scales) == 2 and scales[1] == (1.0, 1)
    assert scales[0][0] == pytest.approx(float(x.max()) / 255, rel=0.1)


def test_an_export_takes_the_ranges_that_lie_beside_the_weights(tmp_path):
    cfg = small_config("RetinaNet")
    model = build_model(cfg)
    round_to_integers(model)
    model.backbone.bottom_up.res2[0].conv1.set_range(-1.0, 2.0)
    DetectionCheckpointer(model, str(tmp_path), **learnt_ranges(model)).save("tuned")
    cfg.MODEL.WEIGHTS = str(tmp_path / "tuned.pth")
    loaded, _, ranges = exporter._from_config(cfg)
    assert ranges == {"backbone.bottom_up.res2.0.conv1": (-1.0, 2.0)}
    assert not hasattr(loaded.backbone.bottom_up.res2[0].conv1, "set_range")
