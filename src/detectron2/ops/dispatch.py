"""Which implementation of an op runs, and why.

Every op has a reference in plain PyTorch and, where it earned its place, a Numba kernel for
CPU tensors and a Triton kernel for CUDA tensors. The choice is made per call:

1. inside :func:`use_implementation` or :func:`substitute`: what the caller asked for;
2. ``DETECTRON2_OPS=reference`` in the environment: the reference, everywhere;
3. otherwise the kernel of the device, and the reference where there is none or it cannot load.
"""

import functools
import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Choice",
    "call",
    "choose",
    "define",
    "explain",
    "is_automatic",
    "register",
    "substitute",
    "use_implementation",
    "warm_up",
]

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "DETECTRON2_OPS"
KERNEL_OF_DEVICE = {"cpu": "numba", "cuda": "triton"}
IMPLEMENTATIONS = ("auto", "reference", "numba", "triton")

# The one library handle through which every op of this package is defined.
LIBRARY = torch.library.Library("detectron2", "FRAGMENT")


@dataclass(frozen=True)
class Op:
    """One op: the reference, and "module:function" of the kernels, which load when first used."""

    name: str
    reference: Callable[..., Any]
    numba: str | None = None
    triton: str | None = None

    def kernel(self, implementation: str) -> str | None:
        return self.numba if implementation == "numba" else self.triton


@dataclass(frozen=True)
class Choice:
    """What runs for an op on a device ("cpu", "cuda", "mps", ...), and the reason in words."""

    op: str
    device: str
    implementation: str
    reason: str


class _Override(threading.local):
    """What this thread asked for; other threads keep the default."""

    implementation: str = "auto"
    functions: Mapping[str, Callable[..., Any]] = {}


_OPS: dict[str, Op] = {}
# Ops whose Triton kernel was refused in this process, and why.
_REFUSED: dict[str, str] = {}
_OVERRIDE = _Override()


def environment_implementation() -> str:
    """Value of ``DETECTRON2_OPS``: "auto" (the default) or "reference"."""
    value = os.environ.get(ENVIRONMENT_VARIABLE, "auto") or "auto"
    if value not in ("auto", "reference"):
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE} is {value!r}; use 'auto' (the fastest that works) or "
            "'reference' (plain PyTorch everywhere)."
        )
    return value


_ENVIRONMENT = environment_implementation()


def register(
    name: str, *, reference: Callable[..., Any], numba: str | None = None, triton: str | None = None
) -> None:
    """Make the implementations of op `name` known. Kernels are given as "module:function"."""
    _OPS[name] = Op(name, reference, numba, triton)


def define(
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    numba: str | None = None,
    triton: str | None = None,
    backward: Callable[..., Any] | None = None,
    save: Callable[..., Any] | None = None,
) -> None:
    """Register an op and make it a torch op, ``torch.ops.detectron2.<name>``.

    Args:
        schema: in PyTorch's schema language, the name first.
        reference: takes the arguments of the schema by position.
        fake: makes outputs of the right shape, dtype and strides out of fake tensors.
        numba: "module:function" of the CPU kernel.
        triton: "module:function" of the CUDA kernel.
        backward: (ctx, *gradients) to the gradient of every argument.
        save: (ctx, inputs, output), keeps what `backward` needs.
    """
    name = schema.partition("(")[0]
    register(name, reference=reference, numba=numba, triton=triton)
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, functools.partial(run, name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"detectron2::{name}", fake, lib=LIBRARY)
    if backward is not None:
        torch.library.register_autograd(
            f"detectron2::{name}", backward, setup_context=save, lib=LIBRARY
        )


def call(name: str, *args: Any) -> Any:
    """Run op `name`, differentiably: as a torch op where a kernel exists, else the reference."""
    if name in _OVERRIDE.functions:
        return _OVERRIDE.functions[name](*args)
    op = _OPS[name]
    if _OVERRIDE.implementation == "reference" or _ENVIRONMENT == "reference":
        return op.reference(*args)
    if op.numba is None and op.triton is None:
        return op.reference(*args)
    return getattr(torch.ops.detectron2, name)(*args)


def run(name: str, *args: Any) -> Any:
    """Run the chosen implementation of op `name`, without autograd: the body of the torch op."""
    first = args[0] if isinstance(args[0], Tensor) else args[0][0]
    device = "cpu" if first.is_cpu else first.device.type
    if device in KERNEL_OF_DEVICE and torch.is_autocast_enabled(device):
        # The tensors say how exact an op is: products inside of it are not to be rounded more.
        with torch.autocast(device, enabled=False):
            return run(name, *args)
    if _OVERRIDE.implementation == "auto" and _ENVIRONMENT == "auto":
        return _fastest(name, device)(*args)
    op, choice = _OPS[name], choose(name, device)
    if choice.implementation == "reference":
        return op.reference(*args)
    kernel = _load(op.kernel(choice.implementation) or "")[0]
    assert kernel is not None, "choose() returned a kernel that does not load"
    return kernel(*args)


def is_automatic() -> bool:
    """Whether the fastest implementation may run, however it looks inside.

    False inside of :func:`use_implementation` and :func:`substitute`, under
    ``DETECTRON2_OPS=reference``, and while PyTorch compiles or records a graph: then the caller
    wants to see plain operations.
    """
    asked = _OVERRIDE.implementation != "auto" or _OVERRIDE.functions or _ENVIRONMENT != "auto"
    recording = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not (asked or recording)


@functools.cache
def _fastest(name: str, device: str) -> Callable[..., Any]:
    """What runs unless something else is asked for; looking it up costs 5 microseconds."""
    op, choice = _OPS[name], _automatic(name, device)
    if choice.implementation == "reference":
        return op.reference
    kernel = _load(op.kernel(choice.implementation) or "")[0] or op.reference
    return kernel if choice.implementation == "numba" else _if_it_compiles(name, kernel)


def _if_it_compiles(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The Triton kernel of op `name`; once this GPU or this Triton refused it, the reference."""
    reference = _OPS[name].reference

    def attempt(*args: Any) -> Any:
        if name in _REFUSED:
            return reference(*args)
        try:
            return kernel(*args)
        except Exception as error:
            if not _is_of_triton(error):
                raise
            # Triton quotes the program first.
            message = str(error).strip().splitlines() or [""]
            _REFUSED[name] = problem = f"{type(error).__name__}: {message[-1].strip()}"
            logger.warning(
                "The Triton kernel of %s does not run here, plain PyTorch runs instead (%s).",
                name,
                problem,
                exc_info=error,
            )
        return reference(*args)

    return attempt


def _is_of_triton(error: Exception) -> bool:
    """Whether a kernel was refused by Triton's compiler or by the driver, before it ran."""
    if type(error).__module__.partition(".")[0] == "triton":
        return True
    beginnings = ("Triton Error", "PassManager", "Failed to find C compiler")
    return type(error) is RuntimeError and str(error).startswith(beginnings)


def choose(name: str, device: str) -> Choice:
    """The implementation that runs for op `name` on tensors of device type `device`.

    Raises:
        RuntimeError: :func:`use_implementation` demands a kernel that cannot run here.
    """
    wanted = _OVERRIDE.implementation
    if wanted in ("numba", "triton"):
        return _demanded(name, device, wanted)
    if wanted == "reference":
        return Choice(name, device, "reference", "asked for by use_implementation('reference')")
    if _ENVIRONMENT == "reference":
        return Choice(name, device, "reference", f"{ENVIRONMENT_VARIABLE}=reference")
    return _automatic(name, device)


def _automatic(name: str, device: str) -> Choice:
    implementation = KERNEL_OF_DEVICE.get(device)
    if implementation is None:
        return Choice(name, device, "reference", f"there are no kernels for {device} devices")
    path = _OPS[name].kernel(implementation)
    if path is None:
        return Choice(name, device, "reference", f"{name} has no {implementation} kernel")
    function, problem = _load(path)
    if function is not None and implementation == "triton" and torch.cuda.is_available():
        # The trial waits for the GPU, which a stream that is recorded must not do.
        recording = torch.cuda.is_current_stream_capturing()
        problem = _REFUSED.get(name, "") or ("" if recording else _launch_problem())
    if problem:
        return Choice(name, device, "reference", f"{implementation} cannot be used: {problem}")
    return Choice(name, device, implementation, f"the kernel for {device} devices")


def _demanded(name: str, device: str, implementation: str) -> Choice:
    path = _OPS[name].kernel(implementation)
    if path is None:
        raise RuntimeError(f"{name} has no {implementation} kernel; use 'auto' or 'reference'.")
    function, problem = _load(path)
    if function is None:
        raise RuntimeError(f"The {implementation} kernel of {name} cannot be used: {problem}.")
    interpreted = implementation == "triton" and device == "cpu" and _triton_is_interpreted()
    if KERNEL_OF_DEVICE.get(device) != implementation and not interpreted:
        raise RuntimeError(
            f"The {implementation} kernel of {name} does not run on {device} tensors; "
            "use 'auto' or 'reference'."
        )
    return Choice(
        name, device, implementation, f"asked for by use_implementation({implementation!r})"
    )


def _triton_is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def _load(path: str) -> tuple[Callable[..., Any] | None, str]:
    """The kernel at "module:function" and "", or None and the reason. Logs a failure once."""
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function), ""
    except Exception as error:  # a broken Numba or Triton fails in many ways, none may be fatal
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("%s cannot be loaded, plain PyTorch runs instead (%s).", path, problem)
        return None, problem


@functools.cache
def _launch_problem() -> str:
    """Why Triton, though it imports, cannot launch a kernel; "" if it can. Logs it once."""
    try:
        importlib.import_module("detectron2.ops.launching").check_launch()
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("Triton cannot launch, plain PyTorch runs on the GPU instead (%s).", problem)
        return problem
    return ""


@contextmanager
def use_implementation(implementation: str) -> Iterator[None]:
    """Within this block and thread run "reference", "numba", "triton" or "auto" for every op.

    Under "reference" the public functions run plain ATen operations, which can be traced,
    exported and differentiated any number of times. A kernel that cannot run raises
    `RuntimeError` instead of falling back.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation is {implementation!r}; use one of {IMPLEMENTATIONS}.")
    before = _OVERRIDE.implementation
    _OVERRIDE.implementation = implementation
    try:
        yield
    finally:
        _OVERRIDE.implementation = before


@contextmanager
def substitute(**functions: Callable[..., Any]) -> Iterator[None]:
    """Within this block and thread the ops named by the keywords call these functions instead.

    This is how an exporter makes the same call site emit another library's op. A function
    receives the checked arguments of the op, by position, in the order of its torch schema.

    Raises:
        ValueError: a keyword is not the name of an op.
    """
    unknown = sorted(set(functions) - set(_OPS))
    if unknown:
        raise ValueError(f"There is no op {unknown[0]!r}; the ops are {sorted(_OPS)}.")
    before = _OVERRIDE.functions
    _OVERRIDE.functions = {**before, **functions}
    try:
        yield
    finally:
        _OVERRIDE.functions = before


def explain(devices: tuple[str, ...] = ("cpu", "cuda")) -> list[Choice]:
    """What runs for every op on each device type, and why: what ``detectron2 doctor`` prints."""
    return [choose(name, device) for name in sorted(_OPS) for device in devices]


def warm_up(names: Sequence[str] | None = None) -> None:
    """Compile CPU kernels, or load them from the on-disk cache, so that no request waits.

    Args:
        names: of ops, in the order in which they are wanted; by default all.

    Raises:
        KeyError: no such op.
    """
    for name in sorted(_OPS) if names is None else names:
        choice = choose(name, "cpu")
        if choice.implementation == "numba":
            path = _OPS[name].numba
            assert path is not None
            importlib.import_module(path.partition(":")[0]).warm_up()
