"""Behaviour recorded from the original, case by case; `kit/README.md` says what the groups are."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import detectron2.export  # noqa: F401  (lets torch.jit.script take backbones)
from detectron2.engine.inference import speed_up
from detectron2.engine.training_blocks import speed_up_convolutions

KIT = Path(__file__).parent / "kit"
GOLDEN = Path(__file__).parents[1] / "golden" / "public"
GROUPS = "abcdefghijk"
# Full-size models take minutes together; one of each architecture stays in the suite.
SECONDS_PER_CASE = 6.0
SLOW_GROUPS = "IK"
# Other settings of what a case of the suite builds and runs.
SAME_LAYERS = {
    "B/cityscapes_mask_rcnn",
    "B/lazy_cascade",
    "B/lazy_lsj_R50",
    "B/mask_rcnn_X_101",
    "B/mask_rcnn_syncbn",
    "B/voc_C4",
    "C/voc_C4",
}

sys.path.insert(0, str(KIT))
try:
    import common
    import core

    for group in GROUPS:
        __import__(f"group_{group}")
finally:
    sys.path.remove(str(KIT))

MANIFEST = json.loads((GOLDEN / "MANIFEST.json").read_text())["cases"]


def selected():
    for name, case in core.CASES.items():
        entry = MANIFEST.get(name)
        is_large = bool(entry) and entry.get("seconds", 0) > SECONDS_PER_CASE
        if entry and "status" not in entry and (not is_large or case.group in SLOW_GROUPS):
            marks = [pytest.mark.slow] if is_large or name in SAME_LAYERS else []
            yield pytest.param(case, id=name, marks=marks)


@pytest.fixture(autouse=True)
def same_start_for_every_case():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    torch.set_num_threads(threads)


def check(case):
    try:
        result = case.fn()
    except core.Skip as reason:
        pytest.skip(str(reason))
    problems = core.compare(case, result, core.find_golden([str(GOLDEN)], case))
    assert not problems, "\n".join(problems)


def leave_zeros(tensor, *args, **kwargs):
    return tensor.detach().zero_()


# The cases were written against the original and call some things that warn by now.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(selected()))
def test_golden(case, monkeypatch):
    if case.group in "BK":
        # These fill every parameter themselves: random numbers before that are drawn for nothing.
        for name in ("kaiming_uniform_", "kaiming_normal_", "normal_", "uniform_"):
            monkeypatch.setattr(torch.nn.init, name, leave_zeros)
    check(case)


# Records the names of classes, which are others in the fast form.
NAMES_CLASSES = "E/frozen_bn"


def inference_and_training():
    """The cases of models and ops, those of full size too."""
    for name, case in core.CASES.items():
        recorded = name in MANIFEST and "status" not in MANIFEST[name]
        if case.group in "BCE" and recorded and name != NAMES_CLASSES:
            yield pytest.param(case, id=name)


# Four threads that wait for one another by spinning share two cores with whatever else runs there:
# what took two minutes in one run took more than five in the next.
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("case", list(inference_and_training()))
def test_golden_holds_for_models_in_their_fast_form(case, threads, monkeypatch):
    monkeypatch.setattr(common, "AFTER_FILL", [speed_up])
    torch.set_num_threads(threads)
    check(case)


def as_trained_on_a_cpu(model):
    speed_up_convolutions(model.to(memory_format=torch.channels_last))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [c for c in inference_and_training() if c.id.startswith("C/")])
def test_golden_holds_for_models_as_they_are_trained_on_a_cpu(case, monkeypatch):
    monkeypatch.setattr(common, "AFTER_FILL", [as_trained_on_a_cpu])
    check(case)
