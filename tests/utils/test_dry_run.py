"""Counting multiply-adds without computing them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detectron2.layers import DeformConv
from detectron2.utils.dry_run import count_flops


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.head = nn.Linear(8, 5)
        self.seen = []

    def forward(self, x):
        self.seen.append(self.training)
        maps = self.body(x)
        scores = self.head(maps.mean((2, 3)))
        return maps, scores @ scores.T  # the product belongs to no child


def test_each_child_gets_its_own_count():
    counts = count_flops(Parts(), torch.zeros(2, 3, 4, 6))
    assert counts == {"body": 2 * 8 * 4 * 6 * 27, "head": 2 * 8 * 5, "": 2 * 2 * 5}


def test_weights_are_never_used_and_the_mode_comes_back():
    model = Parts().train()
    nn.init.constant_(model.body.weight, float("nan"))
    outputs = []
    model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    count_flops(model, torch.zeros(2, 3, 4, 6))
    assert model.training and model.seen == [False]
    assert outputs[0][0].shape == (2, 8, 4, 6) and outputs[0][0].isfinite().all()
    assert outputs[0][0].std() > 0.5  # noise, so that scores differ
    assert model(torch.ones(1, 3, 4, 6))[0].isnan().any()  # and the model is as it was


class Deformed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = DeformConv(4, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(x, x.new_zeros(1, 18, *x.shape[2:]))


def test_a_deformable_convolution_also_counts_its_bilinear_samples():
    taps = 5 * 7 * 9
    assert count_flops(Deformed(), torch.zeros(1, 4, 5, 7)) == {
        "conv": taps * 4 * 6 + taps * 4 * 4  # four cells per sample
    }


class Attention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, attn_mask=x.new_zeros(7, 7))


def test_attention_is_two_products():
    assert count_flops(Attention(), torch.zeros(2, 3, 7, 4)) == {"": 2 * 3 * 7 * 7 * 4 * 2}


def test_an_error_of_the_model_leaves_it_as_it_was():
    model = Parts().train()
    with pytest.raises(RuntimeError):
        count_flops(model, torch.zeros(2, 4, 4, 6))
    assert model.training and not model.body._forward_pre_hooks
