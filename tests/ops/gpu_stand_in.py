"""A GPU that is not there: the host's side of a launch runs as on one, the kernel does not.

Triton's interpreter skips what happens between a call and the machine code: which arguments
become constants, how many variants of a kernel are compiled, what the driver accepts as a grid.
Here that runs with tensors of the CPU, or of no device at all (`device="meta"`, of any size), down
to Triton's intermediate language; results stay as they were allocated.
"""

import importlib
import inspect
import itertools
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

OPS = Path(__file__).parents[2] / "src/detectron2/ops"
NAMES = sorted(file.parent.name for file in OPS.glob("*/gpu.py"))

# Devices whose compiled kernels nobody has seen: Triton remembers them by the number.
DEVICES = itertools.count(1000)


@dataclass(frozen=True)
class Launch:
    """What the driver would have been asked for."""

    kernel: str
    grid: tuple[int, ...]
    variant: Any
    warps: int
    devices: tuple[torch.device, ...]
    guard: torch.device | None

    def problem(self) -> str:
        """What an NVIDIA or AMD driver would have refused, or done to another GPU."""
        wide, *others = self.grid
        if not 0 < wide < 2**31 or any(not 0 < size <= 65535 for size in others):
            return f"{self.kernel}: a grid of {self.grid}"
        if self.warps > 16:
            return f"{self.kernel}: {self.warps} warps, which are 2048 threads on AMD's MI series"
        if any(device != self.guard for device in self.devices):
            return f"{self.kernel}: tensors on {self.devices}, launched on {self.guard}"
        return ""


class Driver:
    def __init__(self, target: Any) -> None:
        self.target, self.device = target, next(DEVICES)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0


def only_begin_to_compile(source: Any, target: Any = None, options: Any = None, **others: Any):
    """Stands in for `triton.compile`: the program is understood and typed, and left there."""
    from triton._C.libtriton import ir
    from triton.compiler import make_backend

    backend = make_backend(target)
    options = backend.parse_options({**(options or {}), **source.parse_options()})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    if "target" in inspect.signature(source.make_ir).parameters:
        functions = backend.get_codegen_implementation(options)
        source.make_ir(target, options, functions, backend.get_module_map(), context)
    else:  # Triton 3.2
        functions = backend.get_codegen_implementation()
        source.make_ir(options, functions, backend.get_module_map(), context)
    return object()


@contextmanager
def gpu_stand_in(monkeypatch, capability: int = 90):
    """The launches within this block, as a list that grows."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []
    guards: list[torch.device] = []
    kernels = set()

    def launcher(kernel, grid):
        def launch(*arguments, **options):
            kernels.add(kernel)
            variant = kernel.run(*arguments, grid=grid, warmup=True, **options)
            tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
            devices = tuple(sorted({tensor.device for tensor in tensors}, key=str))
            warps = options.get("num_warps", 4)
            guard = guards[-1] if guards else None
            launches.append(Launch(kernel.__name__, grid, variant, warps, devices, guard))

        return launch

    @contextmanager
    def device_of(tensor):
        guards.append(tensor.device)
        try:
            yield
        finally:
            guards.pop()

    try:
        with monkeypatch.context() as patch:
            patch.setattr(JITFunction, "__getitem__", launcher)
            patch.setattr(triton.compiler, "compile", only_begin_to_compile)
            for name in NAMES:
                module = importlib.import_module(f"detectron2.ops.{name}.gpu")
                if hasattr(module, "device_of"):
                    patch.setattr(module, "device_of", device_of)
            # Under its other name in Triton 3.2.
            driver = "_active" if hasattr(triton.runtime.driver, "_active") else "active"
            patch.setattr(triton.runtime.driver, driver, Driver(GPUTarget("cuda", capability, 32)))
            yield launches
    finally:
        for kernel in kernels:  # they remember the compiler
            kernel.compile = triton.compiler.compile
