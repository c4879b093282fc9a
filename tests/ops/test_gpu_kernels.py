"""The contract of this folder, once more with the Triton kernels; see `conftest.py`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed on this platform"
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
@needs_triton
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["roi_align", "not roi_align"])
def test_the_contract_holds_for_the_gpu_kernels(part):
    environment = {"DETECTRON2_TEST_KERNELS": "triton"}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    # NumPy, which interprets the kernels, warns where a GPU quietly computes inf or NaN.
    command = ["-m", "pytest", "-q", "-n0", "-x", "-W", "ignore::RuntimeWarning"]
    output = run([*command, str(HERE), "-k", f"kernel_triton and {part}"], **environment)
    assert " passed" in output


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_contract_holds_for_the_gpu_kernels_in_every_case(monkeypatch):
    monkeypatch.setenv("DETECTRON2_TEST_ALL_CASES", "1")
    test_the_contract_holds_for_the_gpu_kernels("roi_align")


@needs_triton
def test_gpu_kernels_compile_to_machine_code(tmp_path):
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    output = run([str(HERE / "compile_gpu_kernels.py")], **environment)
    assert output.count(" bytes") == 56
