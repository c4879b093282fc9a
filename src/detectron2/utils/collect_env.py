"""The environment as a text for bug reports: ``python -m detectron2.utils.collect_env``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

# Distribution names of what may influence a result; absent ones are reported as such.
_LIBRARIES = (
    "torchvision",
    "triton",
    "numba",
    "Pillow",
    "fvcore",
    "iopath",
    "omegaconf",
    "hotcoco",
    "pycocotools",
    "opencv-python",
    "opencv-python-headless",
)
_OPTIONAL = {"torchvision", "triton", "pycocotools", "opencv-python", "opencv-python-headless"}

Row = tuple[str, str]


def collect_torch_env() -> str:
    """How PyTorch was built, and what it finds on this machine."""
    try:
        from torch.utils.collect_env import get_pretty_env_info

        return str(get_pretty_env_info())
    except Exception as error:  # it runs other programs, any of which may be broken
        return f"torch.utils.collect_env failed with {type(error).__name__}: {error}"


def get_env_module() -> Row:
    """("DETECTRON2_ENV_MODULE", its value)."""
    name = "DETECTRON2_ENV_MODULE"
    return name, os.environ.get(name, "<not set>")


def detect_compute_compatibility(CUDA_HOME: str, so_file: str) -> str:
    """GPU architectures a compiled library holds code for, as text; needs ``cuobjdump``.

    This package compiles nothing; the function serves projects that do.
    """
    program = Path(CUDA_HOME, "bin", "cuobjdump")
    if not program.is_file():
        return f"{so_file}; cannot find cuobjdump in {program.parent}"
    listing = _output_of([str(program), "--list-elf", so_file])
    if listing is None:
        return f"{so_file}; cuobjdump could not read it"
    architectures = {
        part.removeprefix("sm_")
        for line in listing.splitlines()
        for part in line.split(".")
        if part.startswith("sm_")
    }
    return ", ".join(f"{int(a) / 10:.1f}" for a in sorted(architectures) if a.isdigit())


def _output_of(command: list[str]) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _detectron2_rows() -> list[Row]:
    from detectron2 import __file__ as package_file
    from detectron2 import __version__

    folder = str(Path(package_file).parent)
    rows = [("detectron2", f"{__version__} @{folder}")]
    installed = _version("detectron2")
    if installed is not None and installed != __version__:
        rows.append(("detectron2 (installed)", f"{installed}, but {__version__} is imported"))
    rows.append(("DETECTRON2_OPS", os.environ.get("DETECTRON2_OPS", "<not set>")))
    return rows


def _torch_rows() -> list[Row]:
    return [
        ("PyTorch", f"{torch.__version__} @{Path(torch.__file__).parent}"),
        ("PyTorch debug build", str(torch.version.debug)),
        ("torch.compiled_with_cxx11_abi", str(torch.compiled_with_cxx11_abi())),
        ("CPU threads", f"{torch.get_num_threads()} of {os.cpu_count()}"),
        ("huge pages", huge_pages()),
    ]


def huge_pages() -> str:
    """What Linux allows, in its words, and whether PyTorch was told to ask for them."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    allowed = setting.read_text().strip() if setting.is_file() else "unknown to this system"
    return f"{allowed}, THP_MEM_ALLOC_ENABLE={os.environ.get('THP_MEM_ALLOC_ENABLE', '<not set>')}"


def _gpu_rows() -> list[Row]:
    available = torch.cuda.is_available()
    rows = [("GPU available", "Yes" if available else _why_no_gpu())]
    if not available:
        return rows
    numbers_of: defaultdict[str, list[str]] = defaultdict(list)
    for number in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(number)
        name = f"{torch.cuda.get_device_name(number)} (arch={major}.{minor})"
        numbers_of[name].append(str(number))
    rows += [(f"GPU {','.join(numbers)}", name) for name, numbers in numbers_of.items()]
    driver = _output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    if driver:
        rows.append(("Driver version", driver.splitlines()[0]))
    runtime = torch.version.hip or torch.version.cuda
    rows.append(("ROCm version" if torch.version.hip else "CUDA version", str(runtime)))
    return rows


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "No: this build of PyTorch is for CPU only"
    if shutil.which("nvidia-smi") is None and torch.version.hip is None:
        return "No: no NVIDIA driver found"
    return "No: torch.cuda.is_available() is False"


def _library_rows() -> list[Row]:
    rows = []
    for name in _LIBRARIES:
        version = _version(name)
        if version is not None:
            rows.append((name, version))
        elif name not in _OPTIONAL:
            rows.append((name, "not installed"))
    return rows


def collect_env_info() -> str:
    """Versions, GPUs and the build of PyTorch as a table, for logs and bug reports."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("numpy", np.__version__),
        *_detectron2_rows(),
        get_env_module(),
        *_torch_rows(),
        *_gpu_rows(),
        *_library_rows(),
    ]
    return f"{tabulate(rows)}\n{torch.__config__.show()}"


def test_nccl_ops() -> None:
    """Let every GPU of this machine meet at one NCCL barrier; prints whether it worked.

    Two or more GPUs are needed, fewer do nothing.
    """
    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or count < 2:
        return
    from detectron2.engine.launch import launch

    print(f"Testing NCCL between {count} GPUs ... this hangs if communication is broken.")
    launch(_meet, count, dist_url="auto")
    print("NCCL works.")


# It is a diagnosis with a name that test collectors take for a test.
test_nccl_ops.__test__ = False  # type: ignore[attr-defined]


def _meet() -> None:
    from detectron2.utils import comm

    comm.synchronize()


def main() -> None:
    """Print the table, then try every GPU."""
    print(collect_env_info())
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            torch.zeros(1).to(f"cuda:{number}")
        except RuntimeError as error:
            print(f"Copying a tensor to GPU {number} failed: {error}")
    test_nccl_ops()


if __name__ == "__main__":
    main()
