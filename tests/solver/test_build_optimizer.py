import copy

import pytest
import torch
from torch import nn

from detectron2.config import get_cfg
from detectron2.solver import build_optimizer, get_default_optimizer_params
from detectron2.solver._fused import _fit_to_fused_kernel, mend_fused_steps
from detectron2.solver.build import (
    GradientClipType,
    _expand_param_groups,
    maybe_add_gradient_clipping,
    reduce_param_groups,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.block = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.pos_embed = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = self.conv


def settings(model, groups):
    """{parameter name: settings}, checking that every parameter is there once."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            assert names[parameter] not in found
            found[names[parameter]] = {k: v for k, v in group.items() if k != "params"}
    return found


def column(table, key):
    return {name: row.get(key) for name, row in table.items()}


def test_every_trainable_parameter_comes_once():
    model = Net()
    found = settings(model, get_default_optimizer_params(model))
    expected = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(found) == sorted(expected)
    assert set(map(str, found.values())) == {"{}"}


def test_a_shared_parameter_has_the_settings_of_its_first_name():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    groups = get_default_optimizer_params(
        model, base_lr=1.0, lr_factor_func=lambda name: {"0.weight": 0.5, "1.weight": 0.1}[name]
    )
    assert groups == [{"params": [model[0].weight], "lr": 0.5}]


def test_norm_layers_have_a_decay_of_their_own_for_weight_and_bias():
    model = Net()
    groups = get_default_optimizer_params(model, weight_decay=0.1, weight_decay_norm=0.0)
    assert len(groups) == 2
    decay = column(settings(model, groups), "weight_decay")
    norm = {name for name, value in decay.items() if value == 0.0}
    assert norm == {"norm.weight", "norm.bias", "block.1.weight", "block.1.bias"}


def test_the_decay_of_biases_is_stronger_than_that_of_norm_layers():
    model = Net()
    groups = get_default_optimizer_params(
        model,
        base_lr=0.5,
        weight_decay=0.1,
        weight_decay_norm=0.0,
        bias_lr_factor=2.0,
        weight_decay_bias=0.02,
    )
    table = settings(model, groups)
    for name in ("conv.bias", "norm.bias", "block.0.bias"):
        assert table[name] == {"lr": 1.0, "weight_decay": 0.02}
    assert table["norm.weight"] == {"lr": 0.5, "weight_decay": 0.0}


def test_factors_get_full_names_and_multiply():
    model = Net()
    names = []

    def factor(name):
        names.append(name)
        return 0.1 if name.startswith("block") else 1.0

    groups = get_default_optimizer_params(
        model, base_lr=0.5, bias_lr_factor=2.0, lr_factor_func=factor
    )
    rate = column(settings(model, groups), "lr")
    assert rate["block.0.weight"] == pytest.approx(0.05)
    assert rate["block.0.bias"] == pytest.approx(0.1)
    assert rate["conv.bias"] == pytest.approx(1.0)
    assert set(names) == set(rate)
    assert "pos_embed" in names


def test_overrides_are_the_strongest():
    model = Net()
    groups = get_default_optimizer_params(
        model,
        base_lr=0.5,
        weight_decay=0.1,
        lr_factor_func=lambda name: 0.1,
        overrides={"pos_embed": {"weight_decay": 0.0, "lr": 9.0}},
    )
    table = settings(model, groups)
    assert table["pos_embed"] == {"lr": 9.0, "weight_decay": 0.0}
    assert table["conv.weight"] == {"lr": pytest.approx(0.05), "weight_decay": 0.1}


@pytest.mark.parametrize(
    "arguments",
    [
        {"bias_lr_factor": 2.0},
        {"lr_factor_func": len},
        {"base_lr": 1.0, "bias_lr_factor": 2.0, "overrides": {"bias": {"lr": 1.0}}},
    ],
)
def test_contradictions_are_refused(arguments):
    with pytest.raises(ValueError):
        get_default_optimizer_params(Net(), **arguments)


def test_later_settings_of_a_parameter_win():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))
    expanded = _expand_param_groups(
        [{"params": [a, b], "lr": 1, "weight_decay": 2}, {"params": a, "lr": 5, "momentum": 3}]
    )
    assert expanded == [
        {"params": [a], "lr": 5, "weight_decay": 2, "momentum": 3},
        {"params": [b], "lr": 1, "weight_decay": 2},
    ]


def test_equal_settings_are_merged_in_order():
    p = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    reduced = reduce_param_groups(
        [
            {"params": [p[0]], "lr": 1.0, "weight_decay": 4.0},
            {"params": [p[1]], "lr": 2.0, "weight_decay": 4.0},
            {"params": [p[2], p[3]], "weight_decay": 4.0, "lr": 1.0},
        ]
    )
    assert reduced == [
        {"params": [p[0], p[2], p[3]], "lr": 1.0, "weight_decay": 4.0},
        {"params": [p[1]], "lr": 2.0, "weight_decay": 4.0},
    ]


def configured(**solver):
    cfg = get_cfg()
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def test_the_default_optimizer_is_sgd_of_the_config():
    optimizer = build_optimizer(
        configured(BASE_LR=0.3, MOMENTUM=0.8, NESTEROV=True, WEIGHT_DECAY=0.2), Net()
    )
    assert type(optimizer) is torch.optim.SGD
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.3, 0.8, True)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.2, 0.0}


def test_projects_choose_another_optimizer_by_a_key_of_their_own():
    optimizer = build_optimizer(configured(OPTIMIZER="ADAMW"), Net())
    assert type(optimizer) is torch.optim.AdamW
    with pytest.raises(ValueError, match=r"use one of \['ADAM', 'ADAMW', 'SGD'\]"):
        build_optimizer(configured(OPTIMIZER="LION"), Net())


def clipping(kind, value=0.5, norm_type=2.0, enabled=True):
    cfg = configured(BASE_LR=1.0, WEIGHT_DECAY=0.0, MOMENTUM=0.0)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE = enabled, kind, value, norm_type
    return cfg


GRADIENTS = [torch.tensor([3.0, -4.0]), torch.tensor([0.1])]
CLIPPED = {
    ("value", 2.0): [[0.5, -0.5], [0.1]],
    ("norm", 2.0): [[0.3, -0.4], [0.1]],
    ("norm", 1.0): [[1.5 / 7, -2.0 / 7], [0.1]],
    ("norm", float("inf")): [[0.375, -0.5], [0.1]],
    ("full_model", 2.0): [[1.5 / 5.001, -2.0 / 5.001], [0.05 / 5.001]],
}


def steps_of(optimizer, parameters):
    """Minus the change of each parameter in one step with learning rate 1."""
    for parameter, gradient in zip(parameters, GRADIENTS, strict=True):
        parameter.grad = gradient.clone()
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.step()
    return [(b - p.detach()).tolist() for b, p in zip(before, parameters, strict=True)]


def parameters():
    return [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]


@pytest.mark.parametrize("key", CLIPPED, ids=str)
@pytest.mark.parametrize("given", ["class", "instance", "copy"])
def test_gradients_are_clipped_before_the_step(key, given):
    kind, norm_type = key
    cfg = clipping(kind, norm_type=norm_type)
    params = parameters()
    if given == "instance":
        optimizer = torch.optim.SGD(params, lr=1.0)
        assert maybe_add_gradient_clipping(cfg, optimizer) is optimizer
    else:
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)(params, lr=1.0)
    if given == "copy":
        optimizer = copy.deepcopy(optimizer)
        params = [p for group in optimizer.param_groups for p in group["params"]]
    assert isinstance(optimizer, torch.optim.SGD)
    for found, expected in zip(steps_of(optimizer, params), CLIPPED[key], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_parameters_without_a_gradient_are_left_alone():
    for kind in ("value", "norm", "full_model"):
        params = [*parameters(), nn.Parameter(torch.ones(3))]
        optimizer = maybe_add_gradient_clipping(clipping(kind), torch.optim.SGD)(params, lr=1.0)
        steps_of(optimizer, params[:2])
        assert params[2].tolist() == [1.0, 1.0, 1.0]


def test_a_closure_is_clipped_after_it_has_run():
    (parameter,) = parameters()[:1]
    optimizer = maybe_add_gradient_clipping(clipping("value"), torch.optim.SGD)([parameter], lr=1.0)

    def closure():
        parameter.grad = GRADIENTS[0].clone()
        return torch.tensor(7.0)

    for step in (lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure)):
        parameter.data.zero_()
        assert step() == 7.0
        assert parameter.tolist() == [-0.5, 0.5]


def test_without_clipping_nothing_is_wrapped():
    cfg = clipping("value", enabled=False)
    assert maybe_add_gradient_clipping(cfg, torch.optim.SGD) is torch.optim.SGD


def test_what_is_no_optimizer_and_unknown_types_are_refused():
    with pytest.raises(TypeError, match="neither a PyTorch optimizer"):
        maybe_add_gradient_clipping(clipping("value"), nn.Linear)
    with pytest.raises(ValueError, match="'value', 'norm', 'full_model'"):
        maybe_add_gradient_clipping(clipping("sum"), torch.optim.SGD)


def test_convention_clip_types_are_an_enum_of_their_names():
    assert GradientClipType("value") is GradientClipType.VALUE
    assert GradientClipType("norm") is GradientClipType.NORM


def momentum_model():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = 0.1, 0.0
    model = nn.ParameterList([torch.ones(3), torch.ones(2)])
    optimizer = build_optimizer(cfg, model)
    assert optimizer.param_groups[0]["fused"] and optimizer.param_groups[0]["momentum"] == 0.9
    return model, optimizer


def test_a_parameter_may_get_its_first_gradient_after_the_first_step():
    model, optimizer = momentum_model()
    model[0].grad = torch.ones(3)
    optimizer.step()
    model[1].grad = torch.ones(2)
    optimizer.step()
    assert torch.allclose(model[0], torch.tensor(1 - 0.1 - 0.19))
    assert torch.allclose(model[1], torch.tensor(1 - 0.1))


def test_a_first_step_that_a_scaler_skips_leaves_no_momentum(monkeypatch):
    model, optimizer = momentum_model()
    # What the memory of a new tensor holds is chance; on a GPU often the inf of before.
    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, torch.inf))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (torch.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(factor * (model[0].sum() + model[1].sum())).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0
    assert torch.allclose(model[0], torch.tensor(0.9))


def test_a_first_step_from_a_momentum_of_zeros_has_the_bits_of_one_without():
    torch.manual_seed(0)
    weights, gradients = torch.randn(50), torch.randn(3, 50)

    def trained(optimizer, parameter):
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        return parameter.detach()

    plain = nn.Parameter(weights.clone())
    expected = trained(torch.optim.SGD([plain], 0.1, momentum=0.9, fused=True), plain)
    model, optimizer = momentum_model()
    model[0].data = weights.clone()
    assert torch.equal(trained(optimizer, model[0]), expected)


@pytest.mark.parametrize("name", ["SGD", "ADAMW"])
def test_a_state_that_was_not_made_by_fused_kernels_is_gone_on_with(name):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = name

    def stepped(make):
        model = nn.ParameterList([torch.ones(3)])
        optimizer = make(model)
        model[0].grad = torch.full((3,), 0.5)
        optimizer.step()
        return model, optimizer

    kind = torch.optim.SGD if name == "SGD" else torch.optim.AdamW
    _, before = stepped(lambda model: kind(model.parameters(), lr=0.1, foreach=True))
    state = before.state_dict()
    for of_parameter in state["state"].values():
        if "step" in of_parameter:
            of_parameter["step"] = 1  # as PyTorch had it once
    model, optimizer = stepped(lambda model: build_optimizer(cfg, model))
    optimizer.load_state_dict(state)
    (group,) = optimizer.param_groups
    assert group["fused"] is True and not group["foreach"]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    was = model[0].detach().clone()
    scaler.scale(model[0].sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert (model[0] < was).all()


@pytest.mark.parametrize("name", ["SGD", "ADAMW"])
def test_a_state_in_another_order_of_memory_meets_its_own_weights(name):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = name
    torch.manual_seed(0)
    weight, gradients = torch.randn(4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)

    def trained(resumed_in):
        model = nn.ParameterList([weight.clone()])
        optimizer = build_optimizer(cfg, model)
        model[0].grad = gradients[0].clone()
        optimizer.step()
        model.to(memory_format=resumed_in)
        resumed = build_optimizer(cfg, model)
        resumed.load_state_dict(optimizer.state_dict())
        model[0].grad = gradients[1].contiguous(memory_format=resumed_in)
        resumed.step()
        return model[0].detach()

    assert trained(torch.channels_last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        trained(torch.channels_last), trained(torch.contiguous_format), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_gradient_in_another_order_of_memory_meets_its_own_weights(name):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = name
    random = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, 3, 4, 2, 2, generator=random)

    def stepped(order):
        parameter = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        optimizer = build_optimizer(cfg, nn.ParameterList([parameter]))
        for _ in range(2):
            parameter.grad = gradient.contiguous(memory_format=order)
            optimizer.step()
        return parameter.detach()

    assert torch.equal(stepped(torch.contiguous_format), stepped(torch.channels_last))


def test_convention_the_number_of_steps_lies_where_the_fused_kernel_reads_it():
    parameter = nn.Parameter(torch.empty(2, device="meta"))
    for step in (3, torch.tensor(3.0)):
        state = {"step": step}
        _fit_to_fused_kernel(state, parameter)
        assert (state["step"].device.type, state["step"].dtype) == ("meta", torch.float32)


def test_the_first_step_with_dampening_is_not_dampened():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0, momentum=0.9, dampening=0.5, fused=True)
    mend_fused_steps(optimizer)
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() == -1.0
