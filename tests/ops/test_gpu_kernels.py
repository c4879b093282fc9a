"""The contract of this folder, once more with the Triton kernels; see `conftest.py`."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.version import Version

HERE = Path(__file__).parent


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed on this platform"
)


# The Triton of torch 2.6 describes kernels in another way, and warns of its own use of NumPy.
recent_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is not None and Version(version("triton")) < Version("3.3"),
    reason="the kernels are compiled and interpreted by Triton 3.3 or later",
)


def run(arguments, **environment):
    outcome = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout[-5000:] + outcome.stderr[-2000:]
    return outcome.stdout


# Two processes, which the workers of pytest may run side by side.
PARTS = ["roi_align", "not roi_align"]


@needs_triton
@recent_triton
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", PARTS)
def test_the_contract_holds_for_the_gpu_kernels(part):
    environment = {"DETECTRON2_TEST_KERNELS": "triton"}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    # NumPy, which interprets the kernels, warns where a GPU quietly computes inf or NaN.
    command = ["-m", "pytest", "-q", "-n0", "-x", "-W", "ignore::RuntimeWarning"]
    output = run([*command, str(HERE), "-k", f"kernel_triton and {part}"], **environment)
    assert " passed" in output


@needs_triton
@recent_triton
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_the_contract_holds_for_the_gpu_kernels_in_every_case(part, monkeypatch):
    monkeypatch.setenv("DETECTRON2_TEST_ALL_CASES", "1")
    test_the_contract_holds_for_the_gpu_kernels(part)


@needs_triton
@recent_triton
def test_gpu_kernels_compile_to_machine_code_that_finds_room_in_registers(tmp_path):
    programs = compiled("sm80", "--one-of-each", cache=tmp_path)
    assert len(programs) == 15 and too_large(programs) == []
    # Where memory is the limit, a thread takes several numbers at once.
    for name, width in (("focal_block", 16), ("paste_block", 8), ("gather_taps", 16)):
        assert any(f"{name}: " in line and f" {width} bytes at once" in line for line in programs)


@needs_triton
@recent_triton
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", ["sm75", "sm80", "sm90", "sm120", "hip"])
def test_gpu_kernels_compile_in_every_variant(target, tmp_path):
    programs = compiled(target, cache=tmp_path)
    assert len(programs) == 36 and too_large(programs) == []


def compiled(*arguments, cache):
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    output = run([str(HERE / "compile_gpu_kernels.py"), *arguments], **environment)
    return [line for line in output.splitlines() if " bytes shared" in line]


def too_large(programs):
    """Programs whose threads spill more than four numbers of float32 to memory."""
    spilled = re.compile(r", (\d+) spilled")
    return [line for line in programs if int((spilled.search(line) or ["", "0"])[1]) > 16]
