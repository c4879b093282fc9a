"""Behaviour recorded from the original, case by case; `kit/README.md` says what the groups are."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import detectron2.export  # noqa: F401  (lets torch.jit.script take backbones)

KIT = Path(__file__).parent / "kit"
GOLDEN = Path(__file__).parents[1] / "golden" / "public"
GROUPS = "abcdefghij"
# Full-size models take minutes together; one of each architecture stays in the suite.
SECONDS_PER_CASE = 6.0
SLOW_GROUPS = "I"

sys.path.insert(0, str(KIT))
try:
    import core

    for group in GROUPS:
        __import__(f"group_{group}")
finally:
    sys.path.remove(str(KIT))

MANIFEST = json.loads((GOLDEN / "MANIFEST.json").read_text())["cases"]


def selected():
    for name, case in core.CASES.items():
        entry = MANIFEST.get(name)
        is_slow = bool(entry) and entry.get("seconds", 0) > SECONDS_PER_CASE
        if entry and "status" not in entry and (not is_slow or case.group in SLOW_GROUPS):
            marks = [pytest.mark.slow] if is_slow else []
            yield pytest.param(case, id=name, marks=marks)


@pytest.fixture(autouse=True)
def same_start_for_every_case():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    torch.set_num_threads(threads)


# The cases were written against the original and call some things that warn by now.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(selected()))
def test_golden(case):
    try:
        result = case.fn()
    except core.Skip as reason:
        pytest.skip(str(reason))
    problems = core.compare(case, result, core.find_golden([str(GOLDEN)], case))
    assert not problems, "\n".join(problems)
