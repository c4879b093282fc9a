"""Counts what would make the host wait for a GPU, on a machine without one.

Inside of :func:`host_waits` there is a make-believe device, :data:`FAR`. A tensor on it holds an
ordinary CPU tensor and computes with it, but says that it is elsewhere: code takes the branches it
takes on a GPU, mixing devices is an error, and what needs a value or a size on the host, or copies
without `non_blocking`, is recorded with the line that asked for it::

    with host_waits() as waits:
        model.to(FAR)
        waits.clear()
        model(inputs)
    print_waits(waits)
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_flatten, tree_map

import detectron2

# The one device type that PyTorch lets a program make tensors of without its hardware.
FAR = torch.device("meta")

SOURCE = str(Path(detectron2.__file__).parent)

# The size or the value of their results is known when the device is done; see PyTorch's
# test_cuda_synchronize_debug_mode.
WAITING = {
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.bincount",
    "aten.equal", "aten.multinomial", "aten._unique2", "aten.unique_dim",
    "aten.unique_consecutive", "aten.histogram", "detectron2.nms", "detectron2.batched_nms",
    "detectron2.nms_rotated", "detectron2.batched_nms_rotated",
}  # fmt: skip
INDEXING = {"aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"}
MAKE_FROM_NUMBERS = {torch.tensor, torch.as_tensor, Tensor.new_tensor}


@dataclass(frozen=True)
class Wait:
    """One wait: the operation, and the lines of the package that led to it, innermost first."""

    operation: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.operation}: {' < '.join(self.lines)}"


class FarTensor(Tensor):
    """A tensor on `FAR`; `near` holds its numbers, `used_by` the last of `record_stream`."""

    near: Tensor
    used_by: Any

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        assert near.device.type == "cpu", f"A tensor was made on {near.device} past the counter."
        tensor = Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            layout=near.layout,
            device=FAR,
            dispatch_device=True,
        )
        tensor.near = near
        return tensor

    @property
    def device(self) -> torch.device:
        return FAR

    def record_stream(self, stream: Any) -> None:
        """Remember who uses the memory."""
        self.used_by = stream

    def __repr__(self) -> str:
        return f"FarTensor({self.near})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # torch 2.14 asks past the modes
            return FAR
        raise AssertionError(f"{func} meets a tensor of FAR outside of host_waits().")


@contextmanager
def host_waits() -> Iterator[list[Wait]]:
    """The waits of the block, in their order; the list may be cleared in between."""
    waits: list[Wait] = []
    with _Functions(waits), _Operations(waits):
        yield waits


def print_waits(waits: list[Wait]) -> None:
    """A table for a person: how often, what, and where."""
    for wait, count in Counter(waits).most_common():
        print(f"{count:4d} x {wait}")


class _Functions(TorchFunctionMode):
    """What does not reach the dispatcher, or not as what it is."""

    def __init__(self, waits: list[Wait]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], FarTensor):
            self._waits.append(wait_here("tolist"))
            return args[0].near.tolist()
        if func is Tensor.numpy and isinstance(args[0], FarTensor):
            raise TypeError("can't convert a tensor on FAR to numpy; use Tensor.cpu() first.")
        if func in MAKE_FROM_NUMBERS:
            return self._make(func, args, kwargs)
        return func(*args, **kwargs)

    def _make(self, func: Any, args: Any, kwargs: Any) -> Any:
        numbers = args[-1] if args else kwargs["data"]
        inherits = func is Tensor.new_tensor
        device = kwargs.get("device") or (args[0].device if inherits else None)
        if device is None or torch.device(device) != FAR or isinstance(numbers, Tensor):
            return func(*args, **kwargs)
        if inherits:
            kwargs.setdefault("dtype", args[0].dtype)
        self._waits.append(wait_here("copy of numbers to the device"))
        return FarTensor(torch.tensor(numbers, **{**kwargs, "device": "cpu"}))


class _Operations(TorchDispatchMode):
    def __init__(self, waits: list[Wait]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # asked by PyTorch's C++ parts
            return args[0].device
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        far = [x for x in tensors if isinstance(x, FarTensor)]
        wanted = kwargs.get("device")
        makes_far = bool(far) if wanted is None else wanted == FAR
        near_kwargs = {**kwargs, "device": torch.device("cpu")} if wanted == FAR else kwargs
        reason = _reason_to_wait(func, args, kwargs, tensors, bool(far), makes_far)
        if reason:
            self._waits.append(wait_here(reason))
        with _disable_current_modes():
            result = func(*tree_map(_near, args), **tree_map(_near, near_kwargs))
        if not makes_far:
            return result
        result = tree_map(lambda x: FarTensor(x) if isinstance(x, Tensor) else x, result)
        return return_and_correct_aliasing(func, args, kwargs, result) if far else result


def _near(value: Any) -> Any:
    return value.near if isinstance(value, FarTensor) else value


def _reason_to_wait(
    func: Any, args: Any, kwargs: Any, tensors: list[Tensor], has_far: bool, makes_far: bool
) -> str:
    name = str(func).rpartition(".")[0]
    mixed = has_far and any(not isinstance(x, FarTensor) and x.dim() for x in tensors)
    if name in ("aten._to_copy", "aten.copy_"):
        crosses = mixed or has_far != makes_far
        # Without numbers in it there is nothing to wait for.
        pays = crosses and tensors[-1].numel() > 0 and not _is_non_blocking(name, args, kwargs)
        direction = "to" if makes_far else "from"
        return f"copy {direction} the device" if pays else ""
    if not has_far:
        return ""
    if name in INDEXING:
        return _reason_of_index(name, args)
    if mixed:
        places = [f"{x.device.type} {tuple(x.shape)}" for x in tensors]
        raise RuntimeError(f"{name} got tensors on two devices: {', '.join(places)}.")
    return name if name in WAITING else ""


def _is_non_blocking(name: str, args: Any, kwargs: Any) -> bool:
    given = args[2] if name == "aten.copy_" and len(args) > 2 else False
    return bool(kwargs.get("non_blocking", given))


def _reason_of_index(name: str, args: Any) -> str:
    indices = [index for index in args[1] if index is not None]
    if any(not isinstance(index, FarTensor) for index in indices):
        return f"{name} by an index on the host"
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    # One value for all of a mask is a masked_fill.
    is_fill = name != "aten.index" and args[2].numel() == 1 and len(indices) == 1
    return f"{name} by a mask" if masks and not is_fill else ""


def wait_here(operation: str) -> Wait:
    """A wait of whoever called: up to three lines of the package, or of a test if none."""
    ours, others = [], []
    frame = sys._getframe(1)
    while frame is not None and len(ours) < 3:
        path = frame.f_code.co_filename
        if path != __file__ and "/torch/" not in path:
            inside = path.startswith(SOURCE)
            place = path[len(SOURCE) + 1 :] if inside else Path(path).name
            line = f"{place}:{frame.f_lineno} {frame.f_code.co_name}"
            (ours if inside else others).append(line)
        frame = frame.f_back
    return Wait(operation, tuple(ours or others[:1]))
