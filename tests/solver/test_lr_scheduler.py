import math

import pytest
import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

from detectron2.config import get_cfg
from detectron2.solver import (
    LRMultiplier,
    LRScheduler,
    WarmupCosineLR,
    WarmupMultiStepLR,
    WarmupParamScheduler,
    build_lr_scheduler,
)
from detectron2.solver.lr_scheduler import _get_warmup_factor_at_iter


def sgd(lr=5.0):
    return torch.optim.SGD([nn.Parameter(torch.zeros(0))], lr=lr)


def rates(optimizer, scheduler, steps):
    """Learning rate at iterations 0, 1, ..., steps - 1."""
    result = []
    for _ in range(steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def multi_step():
    return MultiStepParamScheduler([1, 0.1, 0.01, 0.001], milestones=[10, 15, 20], num_updates=30)


def test_convention_multi_step_warm_up_numbers():
    optimizer = sgd()
    schedule = WarmupParamScheduler(multi_step(), 0.001, 5 / 30)
    found = rates(optimizer, LRMultiplier(optimizer, schedule, 30), 30)
    assert found[:5] == pytest.approx([0.005, 1.004, 2.003, 3.002, 4.001])
    assert found[5:] == pytest.approx([5.0] * 5 + [0.5] * 5 + [0.05] * 5 + [0.005] * 10)


def test_convention_cosine_warm_up_numbers():
    optimizer = sgd()
    schedule = WarmupParamScheduler(CosineParamScheduler(1, 0), 0.001, 5 / 30)
    found = rates(optimizer, LRMultiplier(optimizer, schedule, 30), 30)
    for i in range(5, 30):
        assert found[i] == pytest.approx(2.5 * (1 + math.cos(math.pi * i / 30)))
    assert found[0] == pytest.approx(0.005)
    steps = [b - a for a, b in zip(found[:5], found[1:6], strict=True)]
    assert steps == pytest.approx([steps[0]] * 5)


def test_a_constant_warm_up_does_not_move():
    schedule = WarmupParamScheduler(multi_step(), 0.1, 0.2, warmup_method="constant")
    assert [schedule(0.0), schedule(0.1), schedule(0.19)] == pytest.approx([0.1] * 3)
    assert schedule(0.2) == 1


def test_rescaling_moves_the_schedule_behind_the_warm_up():
    schedule = WarmupParamScheduler(
        StepWithFixedGammaParamScheduler(base_value=1.0, gamma=0.1, num_decays=4, num_updates=30),
        warmup_factor=0.001,
        warmup_length=5 / 30,
        rescale_interval=True,
    )
    optimizer = sgd()
    found = rates(optimizer, LRMultiplier(optimizer, schedule, 30), 29)
    expected = [5.0] * 5 + [0.5] * 5 + [0.05] * 5 + [0.005] * 5 + [0.0005] * 4
    assert found[5:] == pytest.approx(expected)
    assert found[:5] == pytest.approx([0.005, 1.004, 2.003, 3.002, 4.001])


def test_quirk_stepping_past_the_end_of_a_fixed_gamma_schedule_is_an_index_error():
    # fvcore's schedules are defined below 1 only; PyTorch steps once more after the last iteration.
    schedule = StepWithFixedGammaParamScheduler(
        base_value=1.0, gamma=0.1, num_decays=4, num_updates=30
    )
    optimizer = sgd()
    with pytest.raises(IndexError):
        rates(optimizer, LRMultiplier(optimizer, schedule, 30), 30)


def test_an_unknown_warm_up_method_is_refused():
    with pytest.raises(ValueError, match="'linear' or 'constant'"):
        WarmupParamScheduler(multi_step(), 0.1, 0.2, "cubic")
    with pytest.raises(ValueError, match="'linear' or 'constant'"):
        _get_warmup_factor_at_iter("cubic", 0, 10, 0.1)


def test_the_multiplier_must_be_a_schedule():
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(sgd(), lambda progress: 1.0, 10)


def test_a_checkpoint_holds_the_position_and_not_the_schedule():
    optimizer = sgd()
    scheduler = LRMultiplier(optimizer, multi_step(), 30)
    rates(optimizer, scheduler, 12)
    state = scheduler.state_dict()
    assert state == {"base_lrs": [5.0], "last_epoch": 12}

    resumed = sgd()
    other = LRMultiplier(resumed, CosineParamScheduler(1, 0), 30)
    other.load_state_dict(state)
    resumed.step()
    other.step()
    assert resumed.param_groups[0]["lr"] == pytest.approx(2.5 * (1 + math.cos(math.pi * 13 / 30)))


def test_a_multiplier_can_begin_in_the_middle():
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = 5.0
    LRMultiplier(optimizer, multi_step(), 30, last_iter=11)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("linear", [0.1, 0.325, 0.55, 0.775, 1.0]), ("constant", [0.1] * 4 + [1.0])],
)
def test_warm_up_factor(method, expected):
    found = [_get_warmup_factor_at_iter(method, i, 4, 0.1) for i in range(5)]
    assert found == pytest.approx(expected)


def test_the_older_multi_step_class_agrees_with_the_multiplier():
    first, second = sgd(), sgd()
    old = WarmupMultiStepLR(first, [10, 15, 20], 0.1, warmup_factor=0.001, warmup_iters=5)
    new = LRMultiplier(second, WarmupParamScheduler(multi_step(), 0.001, 5 / 30), 30)
    assert isinstance(old, LRScheduler)
    assert rates(first, old, 30) == pytest.approx(rates(second, new, 30))
    with pytest.raises(ValueError, match="ascend"):
        WarmupMultiStepLR(sgd(), [20, 10])


def test_quirk_the_older_cosine_class_warms_up_along_the_cosine():
    # It multiplies the cosine by the warm-up factor, where the newer one replaces its beginning.
    optimizer = sgd()
    found = rates(optimizer, WarmupCosineLR(optimizer, 20, 0.01, 4, "constant"), 20)
    cosine = [2.5 * (1 + math.cos(math.pi * i / 20)) for i in range(20)]
    assert found == pytest.approx([0.01 * value for value in cosine[:4]] + cosine[4:])


def configured(**solver):
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = 30
    cfg.SOLVER.BASE_LR = 5.0
    cfg.SOLVER.WARMUP_ITERS = 5
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


@pytest.mark.parametrize("end", [0.0, 0.5])
def test_the_configured_cosine_ends_where_the_config_says(end):
    optimizer = sgd()
    cfg = configured(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=end)
    found = rates(optimizer, build_lr_scheduler(cfg, optimizer), 31)
    assert found[0] == pytest.approx(5.0 * cfg.SOLVER.WARMUP_FACTOR)
    assert found[30] == pytest.approx(end)


def test_milestones_behind_the_end_are_left_out_with_a_warning(caplog):
    optimizer = sgd()
    scheduler = build_lr_scheduler(configured(STEPS=(10, 30, 99)), optimizer)
    assert rates(optimizer, scheduler, 30)[10:] == pytest.approx([0.5] * 20)
    assert "[30, 99] are never reached" in caplog.text


def test_the_configured_fixed_gamma_schedule_has_even_plateaus():
    optimizer = sgd()
    cfg = configured(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", NUM_DECAYS=2, WARMUP_ITERS=0)
    found = rates(optimizer, build_lr_scheduler(cfg, optimizer), 29)
    assert found == pytest.approx([5.0] * 10 + [0.5] * 10 + [0.05] * 9)


def test_an_unknown_schedule_names_the_known_ones():
    with pytest.raises(ValueError, match="'WarmupCosineLR', 'WarmupMultiStepLR'"):
        build_lr_scheduler(configured(LR_SCHEDULER_NAME="Cosine"), sgd())


def test_convention_the_schedules_are_those_of_fvcore():
    assert isinstance(WarmupParamScheduler(multi_step(), 0.1, 0.1), ParamScheduler)
