"""Layers that round to 8 bits while they train, as the exported file will."""

import copy

import pytest
import torch
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config.training_defaults import TRAINING
from detectron2.engine._prepare_model import prepare_model
from detectron2.engine.integer_training import LearntRanges, learnt_ranges, round_to_integers
from detectron2.export.learnt_ranges import ranges_in
from detectron2.layers import Conv2d


class Small(nn.Module):
    """A model with the parts that exporters know: one layer becomes integers, one does not."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(Conv2d(3, 4, 3, activation=torch.relu), nn.Conv2d(4, 4, 1))
        self.box_head = nn.Linear(4, 6)
        self.cls_score = nn.Linear(6, 2)

    def forward(self, x):
        return self.cls_score(self.box_head(self.backbone(x).mean(dim=(2, 3))))


def small():
    torch.manual_seed(0)
    return Small()


def steps_of(values, step):
    return (values / step - (values / step).round()).abs().max()


def test_layers_round_weights_and_inputs_to_what_eight_bits_hold():
    model = small()
    assert round_to_integers(model) == 3
    first = model.backbone[0]
    with torch.no_grad():
        first.weight[0] *= 50  # channels have steps of their own
        weight = first.rounded_weight(first.weight)
        largest = first.weight.abs().amax(dim=(1, 2, 3), keepdim=True)
    assert steps_of(weight, largest / 127) < 1e-3
    assert not torch.equal(weight, first.weight)
    x = torch.rand(2, 3, 8, 8) * 3 - 1
    rounded = first.rounded_input(x)
    assert steps_of(rounded, (x.max() - x.min()) / 255) < 1e-2
    assert (rounded - x).abs().max() <= 0.51 * (x.max() - x.min()) / 255


def test_convention_checkpoints_keep_the_names_of_the_float_model():
    model = small()
    names = list(model.state_dict())
    round_to_integers(model)
    model(torch.rand(1, 3, 8, 8))
    assert list(model.state_dict()) == names
    small().load_state_dict(model.state_dict())
    copy.deepcopy(model)(torch.rand(1, 3, 8, 8))


def test_gradients_pass_and_ranges_are_learnt_in_training_alone():
    model, x = small(), torch.rand(2, 3, 8, 8)
    plain = small()
    round_to_integers(model)
    first = model.backbone[0]
    # Before it has seen anything an evaluation rounds the weights alone.
    assert torch.equal(model.eval().backbone[0].rounded_input(x), x)
    model.train()(x).sum().backward()
    plain(x).sum().backward()
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters()):
        assert torch.allclose(mine.grad, theirs.grad, rtol=0.1, atol=0.05), name
    low, high = float(first.input_low), float(first.input_high)
    assert low == pytest.approx(float(x.min())) and high == pytest.approx(float(x.max()))
    model.eval()(x * 9)
    assert (float(first.input_low), float(first.input_high)) == (low, high)
    assert first.rounded_input(x * 9).max() <= high + 1e-3
    empty = model(torch.zeros(0, 3, 8, 8))
    assert empty.shape == (0, 2)


def test_the_switch_of_the_trainer_rounds_and_says_if_there_is_nothing_to_round():
    model = small()
    prepare_model(model, {**TRAINING, "QUANTIZATION": {"ENABLED": True}})
    assert hasattr(model.backbone[0], "rounded_input")
    assert not hasattr(model.cls_score, "rounded_input")
    with pytest.raises(ValueError, match="TRAINING.QUANTIZATION is enabled, but Linear has no"):
        round_to_integers(nn.Linear(2, 2))


def test_learnt_ranges_are_saved_and_go_on_where_they_were():
    model, x = small(), torch.rand(2, 3, 8, 8) * 3 - 1
    assert learnt_ranges(model) == {}
    round_to_integers(model)
    saver = learnt_ranges(model)["integer_ranges"]
    assert saver.state_dict() == {}  # nothing is known yet
    model.train()(x)
    state = saver.state_dict()
    assert list(state) == ["backbone.0", "backbone.1", "box_head"]
    assert state["backbone.0"].tolist() == [float(x.min()), float(x.max())]
    other = small()
    round_to_integers(other)
    LearntRanges(nn.ModuleDict({"module": other})).load_state_dict(state)
    first, theirs = model.backbone[0].eval(), other.backbone[0].eval()
    assert torch.equal(first.rounded_input(x), theirs.rounded_input(x))


def test_a_checkpoint_of_the_trainer_holds_the_ranges_beside_the_weights(tmp_path):
    model = small()
    round_to_integers(model)
    model.train()(torch.rand(2, 3, 8, 8))
    DetectionCheckpointer(model, str(tmp_path), **learnt_ranges(model)).save("tuned")
    plain = small()
    saved = DetectionCheckpointer(plain).load(str(tmp_path / "tuned.pth"))
    ranges = ranges_in(saved)
    head = model.box_head
    assert ranges["box_head"] == (float(head.input_low), float(head.input_high))
    assert torch.equal(plain.box_head.weight, model.box_head.weight)
