"""Trunks of the zoo under torch.compile, as TRAINING.COMPILE runs them."""

import copy
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from detectron2 import model_zoo
from detectron2.engine._prepare_model import compile_backbone
from detectron2.modeling import build_backbone

TRUNKS = [
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml",
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_DC5_3x.yaml",
    "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml",
    "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml",
]


def trunk_of(name):
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    return build_backbone(cfg).train()


class Model(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def step(backbone, images):
    backbone.zero_grad()
    out = backbone(images)
    # Linear, as a kink would turn the rounding of an output into another gradient.
    sum((f * torch.linspace(-1, 1, f.numel()).view_as(f)).mean() for f in out.values()).backward()
    gradients = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    return {**out, **gradients}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNKS)
def test_trunks_of_the_zoo_compile_without_a_graph_break(name):
    backbone = trunk_of(name)
    compile_backbone(Model(backbone), "eager")
    backbone(torch.rand(1, 3, 64, 96))
    backbone(torch.rand(1, 3, 96, 64))
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] <= 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
def test_a_trunk_compiled_by_inductor_has_the_same_maps_and_gradients():
    # Batch statistics of few cells magnify rounding, so these numbers are long.
    backbone = trunk_of("Quickstart/mask_rcnn_R_50_narrow_FPN.yaml").double()
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    expected = step(copy.deepcopy(backbone), images)
    compile_backbone(Model(backbone), "inductor")
    for name, actual in step(backbone, images).items():
        wanted = expected[name]
        assert (actual - wanted).abs().max() <= 1e-6 * wanted.abs().max() + 1e-12, name
    assert not counters["graph_break"] and counters["inductor"]
