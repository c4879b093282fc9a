import pytest
import torch
from torch import nn

from detectron2 import ops
from detectron2.structures import Boxes, Instances
from detectron2.utils.analysis import (
    FlopCountAnalysis,
    activation_count_operators,
    find_unused_parameters,
    flop_count_operators,
    parameter_count,
    parameter_count_table,
)


class Detector(nn.Module):
    """Takes and returns what detectors do: dictionaries in, Instances out."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8 * 49, 5)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("rois", torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]] * 4))

    def forward(self, inputs):
        images = torch.stack([x["image"] for x in inputs])
        features = self.conv(images)
        pooled = ops.roi_align(features, self.rois, 7, 1.0, 2, True)
        scores = self.head(pooled.flatten(1))
        if self.training:
            return {"loss": scores.sum()}
        result = Instances((16, 16))
        result.scores = scores.sum(dim=1)
        result.pred_boxes = Boxes(self.rois[:, 1:] * scores[:, :1])
        return [{"instances": result}]


def inputs(**extra):
    return [{"image": torch.rand(3, 16, 16), "file_name": "a.jpg", **extra}]


CONV = 3 * 8 * 9 * 16 * 16
HEAD = 4 * 8 * 49 * 5
POOL = 4 * 8 * 49 * 4 * 4  # elements, samples per bin, cells per sample


def test_layers_and_own_ops_are_counted():
    model = Detector().train()
    count = flop_count_operators(model, inputs(height=30, width=40))
    assert model.training
    assert {name: round(flops * 1e9) for name, flops in count.items()} == {
        "conv": CONV,
        "linear": HEAD,
        "roi_align": POOL,
    }


def test_the_total_is_the_sum_and_the_modules_are_told_apart():
    analysis = FlopCountAnalysis(Detector().eval(), inputs())
    assert analysis.total() == CONV + HEAD + POOL
    assert analysis.by_module()["model.conv"] == CONV
    assert analysis.by_module()["model.head"] == HEAD


def test_several_arguments_are_given_as_a_tuple():
    class Add(nn.Module):
        def forward(self, first, second):
            return first @ second["x"]

    analysis = FlopCountAnalysis(Add(), (torch.rand(2, 3), {"x": torch.rand(3, 4)}))
    assert analysis.total() == 24


def test_pooling_of_a_pyramid_is_counted_like_pooling_of_one_level():
    class Pool(nn.Module):
        def forward(self, levels, rois):
            index = torch.tensor([0, 1, 0, 1])
            return ops.multilevel_roi_align(levels, rois, index, 7, [1.0, 0.5], 2, True)

    levels = [torch.rand(1, 8, 16, 16), torch.rand(1, 8, 8, 8)]
    assert FlopCountAnalysis(Pool(), (levels, Detector().rois)).total() == POOL


def test_activations_are_the_outputs_of_layers():
    count = activation_count_operators(Detector(), inputs())
    assert count == {"conv": 8 * 16 * 16 / 1e6, "linear": 4 * 5 / 1e6}


def test_activations_are_counted_for_one_image():
    with pytest.raises(ValueError, match="2 were given"):
        activation_count_operators(Detector(), inputs() * 2)


def test_unused_parameters_are_exactly_those_without_a_gradient():
    model = Detector().train()
    assert find_unused_parameters(model, inputs()) == ["unused.weight", "unused.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"call train\(\)"):
        find_unused_parameters(model.eval(), inputs())


def test_parameters_are_counted_by_module():
    model = Detector()
    assert parameter_count(model)[""] == sum(p.numel() for p in model.parameters())
    assert parameter_count(model)["conv"] == 3 * 8 * 9 + 8
    assert "head" in parameter_count_table(model, max_depth=1)
