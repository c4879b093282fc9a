import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from detectron2.utils import env
from detectron2.utils.collect_env import (
    collect_env_info,
    detect_compute_compatibility,
    huge_pages,
)


@pytest.fixture
def environment(monkeypatch):
    """monkeypatch, with setup_environment() allowed to run again."""
    monkeypatch.setattr(env, "_environment_is_set_up", False)
    monkeypatch.setenv("OPENCV_OPENCL_RUNTIME", "")
    monkeypatch.delenv("OPENCV_OPENCL_RUNTIME")
    return monkeypatch


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_a_seed_repeats_the_numbers_of_every_generator(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    env.seed_all_rng(42)
    first = draw()
    assert draw() != first
    env.seed_all_rng(42)
    assert draw() == first
    assert first[1:] == pytest.approx((0.3745401188473625, 0.8822692632675171))


def test_without_a_seed_runs_differ(monkeypatch, caplog):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    env.seed_all_rng(None)
    first = draw()
    env.seed_all_rng()
    assert draw() != first


def test_the_torch_version_is_two_numbers():
    assert len(env.TORCH_VERSION) == 2
    assert torch.__version__.startswith(".".join(map(str, env.TORCH_VERSION)))


def test_a_module_of_the_user_is_called_once(environment, tmp_path):
    script = tmp_path / "custom.py"
    script.write_text(
        "from pathlib import Path\n"
        "def setup_environment():\n"
        f"    with open({str(tmp_path / 'calls')!r}, 'a') as f: f.write('x')\n"
    )
    environment.setenv("DETECTRON2_ENV_MODULE", str(script))
    env.setup_environment()
    env.setup_environment()
    assert (tmp_path / "calls").read_text() == "x"


def test_a_module_without_the_function_is_refused(environment, tmp_path):
    script = tmp_path / "custom.py"
    script.write_text("x = 1\n")
    environment.setenv("DETECTRON2_ENV_MODULE", str(script))
    with pytest.raises(ValueError, match=r"has no function setup_environment\(\)"):
        env.setup_environment()


def test_opencv_can_be_switched_off(environment):
    environment.setitem(sys.modules, "cv2", sys.modules.get("cv2"))
    environment.setenv("DETECTRON2_DISABLE_CV2", "1")
    env.setup_environment()
    with pytest.raises(ImportError):
        import cv2  # noqa: F401


def in_new_process(code, **environment):
    """What `code` prints, after `import os, sys`, without THP_MEM_ALLOC_ENABLE unless given."""
    inherited = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", "import os, sys\n" + code]
    result = subprocess.run(
        command, capture_output=True, text=True, env=inherited | environment, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_library_changes_nothing_but_how_large_tensors_are_kept():
    printed = in_new_process(
        "before = dict(os.environ)\n"
        "import detectron2.utils.env, detectron2.utils.comm, detectron2.utils.logger\n"
        "assert dict(os.environ) == before | {'THP_MEM_ALLOC_ENABLE': '1'}\n"
        "print([m for m in ('cv2', 'matplotlib', 'tensorboard', 'numba') if m in sys.modules])"
    )
    assert printed == "[]"


def test_importing_the_library_keeps_the_users_choice_of_pages():
    code = "import detectron2; print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    assert in_new_process(code, THP_MEM_ALLOC_ENABLE="0") == "0"


@pytest.mark.skipif(
    "[madvise]" not in huge_pages(), reason="Linux gives no huge pages here, or gives them to all"
)
def test_large_tensors_are_kept_in_huge_pages():
    code = (
        "import resource, torch, detectron2, detectron2.layers, detectron2.structures\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults(); torch.ones(64 << 20, dtype=torch.uint8); print(faults() - before)"
    )
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert int(in_new_process(code)) < pages / 4
    assert int(in_new_process(code, THP_MEM_ALLOC_ENABLE="0")) > pages / 2


def test_re_exports_change_their_home_only_in_documentation(monkeypatch):
    class Thing:
        def method(self):
            pass

    Thing.__module__ = Thing.method.__module__ = "detectron2.deep.inside"
    env.fixup_module_metadata("detectron2.top", {"Thing": Thing})
    assert Thing.__module__ == "detectron2.deep.inside"
    monkeypatch.setattr(env, "DOC_BUILDING", True)
    env.fixup_module_metadata("detectron2.top", {"Thing": Thing, "_x": 1, "torch": torch})
    assert Thing.__module__ == Thing.method.__module__ == "detectron2.top"
    assert torch.__name__ == "torch"


def test_the_environment_report_names_what_matters():
    report = collect_env_info()
    libraries = ("Python", "numpy", "detectron2", "PyTorch", "numba", "fvcore")
    for name in (*libraries, "huge pages", "GPU available"):
        assert any(line.startswith(name) for line in report.splitlines()), name
    assert torch.__version__ in report


def test_compute_compatibility_without_the_cuda_tools_says_so(tmp_path):
    assert "cannot find cuobjdump" in detect_compute_compatibility(str(tmp_path), "lib.so")


def test_compute_compatibility_reads_the_listing_of_cuobjdump(tmp_path):
    program = tmp_path / "bin" / "cuobjdump"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho 'ELF file 1: a.1.sm_80.cubin'\necho 'ELF file 2: a.2.sm_90.cubin'\n"
    )
    program.chmod(0o755)
    assert detect_compute_compatibility(str(tmp_path), "lib.so") == "8.0, 9.0"
