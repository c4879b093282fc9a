import logging
import os
import subprocess
import sys

import pytest
import torch
from ops_contract import random_boxes
from torch.fx.experimental.proxy_tensor import make_fx

from detectron2.ops import box_iou, dispatch, nms

BOXES = random_boxes(6)


def run_python(code, **environment):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return run


def test_convention_kernels_run_by_default_on_cpu():
    assert dispatch.choose("nms", "cpu").implementation == "numba"


def test_convention_devices_without_kernels_run_the_reference():
    choice = dispatch.choose("nms", "mps")
    assert choice.implementation == "reference"
    assert choice.reason == "there are no kernels for mps devices"


def test_every_op_says_what_runs_and_why():
    rows = dispatch.explain(devices=("cpu", "cuda", "mps"))
    assert {row.op for row in rows} >= {"nms", "batched_nms", "roi_align", "box_iou", "paste_masks"}
    assert all(row.implementation and row.reason for row in rows)
    assert len(rows) % 3 == 0


def test_environment_variable_forces_the_reference():
    code = (
        "import torch; from detectron2.ops import dispatch, nms\n"
        "print(dispatch.choose('nms', 'cpu').reason, nms(torch.zeros(1, 4), torch.ones(1), 0.5))\n"
        "import sys; assert 'numba' not in sys.modules"
    )
    run = run_python(code, DETECTRON2_OPS="reference")
    assert run.returncode == 0, run.stderr
    assert run.stdout == "DETECTRON2_OPS=reference tensor([0])\n"


def test_an_unknown_value_of_the_environment_variable_is_named():
    run = run_python("import detectron2.ops", DETECTRON2_OPS="fast")
    assert "DETECTRON2_OPS is 'fast'; use 'auto'" in run.stderr


def test_importing_costs_neither_numba_nor_triton_nor_dynamo():
    code = (
        "import sys, detectron2.ops\n"
        "print([m for m in ('numba', 'triton', 'torch._dynamo') if m in sys.modules])"
    )
    run = run_python(code)
    assert run.stdout == "[]\n", run.stderr


def test_a_numba_that_does_not_import_falls_back_with_one_line():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import logging; logging.basicConfig(format='%(message)s')\n"
        "import torch; from detectron2.ops import dispatch, nms, roi_align\n"
        "x = torch.ones(1, 1, 4, 4, requires_grad=True)\n"
        "roi_align(x, torch.tensor([[0., 0, 0, 2, 2]]), 1).sum().backward()\n"
        "for _ in range(2): nms(torch.zeros(1, 4), torch.ones(1), 0.5)\n"
        "print(x.grad.sum().item(), dispatch.choose('nms', 'cpu'))"
    )
    run = run_python(code)
    assert run.returncode == 0, run.stderr
    assert "implementation='reference', reason='numba cannot be used: " in run.stdout
    assert run.stdout.startswith("1.0")
    assert run.stderr.count("detectron2.ops.nms.cpu:nms cannot be loaded") == 1


def test_forced_reference_is_plain_aten():
    def graph_of(implementation):
        with dispatch.use_implementation(implementation):
            return make_fx(lambda boxes: box_iou(boxes, boxes))(BOXES).code

    assert "torch.ops.detectron2.box_iou" in graph_of("auto")
    assert "torch.ops.aten" in graph_of("reference")
    assert "torch.ops.detectron2" not in graph_of("reference")


def test_forcing_ends_with_the_block_also_after_an_error():
    with pytest.raises(KeyError), dispatch.use_implementation("reference"):
        assert dispatch.choose("nms", "cpu").implementation == "reference"
        with dispatch.use_implementation("auto"):
            assert dispatch.choose("nms", "cpu").implementation == "numba"
        raise KeyError
    assert dispatch.choose("nms", "cpu").implementation == "numba"


def test_a_kernel_that_cannot_run_is_an_error_when_it_is_forced():
    with pytest.raises(ValueError, match="implementation is 'cuda'; use one of"):
        dispatch.use_implementation("cuda").__enter__()
    with (
        dispatch.use_implementation("numba"),
        pytest.raises(RuntimeError, match="numba kernel of nms does not run on cuda tensors"),
    ):
        dispatch.choose("nms", "cuda")


def test_a_substitute_gets_the_checked_arguments():
    seen = []

    def substitute(boxes, scores, iou_threshold):
        seen.append((boxes.shape, iou_threshold))
        return torch.arange(2)

    with dispatch.substitute(nms=substitute):
        assert nms(BOXES, torch.ones(6), 0.25).tolist() == [0, 1]
        with pytest.raises(ValueError, match="scores has shape"):
            nms(BOXES, torch.ones(5), 0.25)
    assert seen == [((6, 4), 0.25)]
    with pytest.raises(ValueError, match="There is no op 'nmz'"):
        dispatch.substitute(nmz=substitute).__enter__()


def test_warm_up_compiles_every_cpu_kernel():
    dispatch.warm_up()
    from detectron2.ops.roi_align.kernels import backward, forward

    assert forward.signatures and backward.signatures


def test_a_read_only_installation_runs_without_a_cache(tmp_path):
    # No folder can be written, neither beside the source nor in the home: Numba then has no
    # place for machine code. A file in the way of the folders has that effect for root, too.
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    code = (
        "import logging; logging.basicConfig(format='%(message)s')\n"
        "import numba.core.caching as caching\n"
        "caching._CacheLocator.ensure_cache_path = unwritable = lambda self: open('/dev/null/x')\n"
        "for locator in caching.CacheImpl._locator_classes:\n"
        "    locator.ensure_cache_path = unwritable\n"
        "import torch; from detectron2.ops import nms\n"
        "print(nms(torch.zeros(1, 4), torch.ones(1), 0.5).tolist())"
    )
    run = run_python(code, HOME=str(blocked), XDG_CACHE_HOME=str(blocked / "cache"))
    assert run.stdout == "[0]\n", run.stderr
    assert run.stderr.count("CPU kernels compile anew in every process") == 1


def test_a_failure_to_load_is_logged_once(caplog):
    with caplog.at_level(logging.WARNING, logger="detectron2.ops.dispatch"):
        for _ in range(2):
            function, problem = dispatch._load("detectron2.ops.no_such_module:kernel")
    assert function is None and "no_such_module" in problem
    assert len(caplog.records) == 1


def test_a_triton_that_cannot_launch_falls_back_with_one_line(monkeypatch, caplog):
    launching = pytest.importorskip("detectron2.ops.launching")

    def no_compiler():
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launching, "check_launch", no_compiler)
    dispatch._launch_problem.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="detectron2.ops.dispatch"):
            choices = [dispatch.choose(name, "cuda") for name in ("nms", "roi_align")]
    finally:
        dispatch._launch_problem.cache_clear()
    assert {choice.implementation for choice in choices} == {"reference"}
    assert "triton cannot be used: RuntimeError: Failed to find C compiler" in choices[0].reason
    assert len(caplog.records) == 1


def test_nothing_is_launched_on_trial_while_a_cuda_graph_is_recorded(monkeypatch):
    launching = pytest.importorskip("detectron2.ops.launching")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(launching, "check_launch", lambda: pytest.fail("it waits for the GPU"))
    dispatch._launch_problem.cache_clear()
    assert dispatch.choose("nms", "cuda").implementation == "triton"


def refusal(message):
    kind = type("CompilationError", (Exception,), {"__module__": "triton.compiler.errors"})
    return kind(f"at 7:4:\n    x = y.to(z)\n        ^\n{message}")


@pytest.mark.parametrize(
    "error",
    [refusal("no attribute 'to'"), RuntimeError("Triton Error [CUDA]: no attribute 'to'")],
    ids=["compiler", "driver"],
)
def test_a_kernel_that_triton_refuses_falls_back_and_says_so_once(monkeypatch, caplog, error):
    calls = []

    def kernel(*args):
        calls.append(args)
        raise error

    monkeypatch.setattr(dispatch, "_REFUSED", {})
    attempt = dispatch._if_it_compiles("nms", kernel)
    scores = torch.arange(6.0)
    with caplog.at_level(logging.WARNING, logger="detectron2.ops.dispatch"):
        results = [attempt(BOXES, scores, 0.5) for _ in range(2)]
    assert all(torch.equal(kept, nms(BOXES, scores, 0.5)) for kept in results)
    assert len(calls) == len(caplog.records) == 1
    assert "no attribute 'to'" in caplog.records[0].getMessage()
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    choice = dispatch.choose("nms", "cuda")
    assert choice.implementation == "reference" and "no attribute 'to'" in choice.reason


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), RuntimeError("sizes"), ValueError("rois")]
)
def test_an_error_that_is_not_of_triton_is_no_reason_to_fall_back(monkeypatch, error):
    def kernel(*args):
        raise error

    monkeypatch.setattr(dispatch, "_REFUSED", {})
    with pytest.raises(type(error), match=str(error)):
        dispatch._if_it_compiles("nms", kernel)(BOXES, torch.arange(6.0), 0.5)
    assert not dispatch._REFUSED
