"""Triton's interpreter, less forgiving: what a GPU is free to do wrong becomes an error or a value.

- A load, store or atomic outside of every tensor of the launch is an error.
- A place that a launch stores to twice, or stores or adds to and reads, is a race: programs run in
  any order, and the threads of one do not wait for one another. Atomics may meet.
- Programs run in another order than that of their numbers.
- A number that does not fit an integer type, such as NaN, is converted to an arbitrary one; so is
  what a load leaves out without an `other`.
- Memory that nobody wrote to holds numbers, NaN where the type has it.
- Int32 arithmetic that overflows is an error; bit operations and comparisons are not looked at.
"""

from typing import Any

import numpy as np
import torch

__all__ = ["Hostile", "install"]


class Hostile(AssertionError):
    """What a kernel did that a GPU does not allow."""


ANYTHING = 77  # what is found where nothing is known


Addresses = np.ndarray[Any, Any]


class Memory:
    """The tensors of a launch, and which of their places it reads, stores to and adds to."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        storages = [tensor.untyped_storage() for tensor in tensors]
        ranges = {one.data_ptr(): one.nbytes() for one in storages if one.nbytes()}
        self.starts = np.array(sorted(ranges), np.uint64)
        self.ends = self.starts + np.array([ranges[int(one)] for one in self.starts], np.uint64)
        self.touched: dict[str, list[Addresses]] = {"load": [], "store": [], "atomic": []}

    def touch(self, what: str, addresses: Addresses, width: int) -> None:
        """Note numbers of `width` bytes; an error if one is not all within a tensor."""
        if not len(addresses):
            return
        tensor = np.searchsorted(self.starts, addresses, side="right") - 1
        outside = tensor < 0
        if len(self.starts):
            outside |= addresses + np.uint64(width) > self.ends[tensor]
        if outside.any():
            raise Hostile(f"{what} of {outside.sum()} numbers outside of every tensor")
        self.touched[what].append(addresses)

    def check_races(self) -> None:
        """An error where the result depends on the order of programs or threads."""
        stored, loaded, added = (
            np.concatenate([np.zeros(0, np.uint64), *self.touched[what]])
            for what in ("store", "load", "atomic")
        )
        places = np.unique(stored)
        if len(places) < len(stored):
            raise Hostile(f"{len(stored) - len(places)} places are stored to more than once")
        for one, other in (("stored", loaded), ("stored", added), ("added", loaded)):
            common = np.isin(np.unique(other), places if one == "stored" else added).sum()
            if common:
                raise Hostile(f"{common} places that are {one} to are also used otherwise")


class State:
    """Which memory the launch that runs now may use."""

    memory = Memory([])


def install() -> None:
    """From now on every kernel of this process is interpreted in this way."""
    from triton.runtime import interpreter

    check_memory(interpreter.InterpreterBuilder)
    check_numbers(interpreter.InterpreterBuilder)
    shuffle_programs(interpreter.InterpreterBuilder)
    check_launches(interpreter.GridExecutor)
    torch.empty, torch.empty_like = dirty(torch.empty), dirty(torch.empty_like)
    torch.Tensor.new_empty = dirty(torch.Tensor.new_empty)  # type: ignore[method-assign]


def check_memory(builder: Any) -> None:
    """Note what loads, stores and atomics touch."""
    load, store = builder.create_masked_load, builder.create_masked_store
    add = builder.create_atomic_rmw

    def checked_load(self, ptrs, mask, other, *rest):  # type: ignore[no-untyped-def]
        State.memory.touch("load", *touched(ptrs, mask))
        result = load(self, ptrs, mask, other, *rest)
        if other is None:
            there = np.broadcast_to(mask.data, result.data.shape)
            result.data = np.where(there, result.data, result.data.dtype.type(ANYTHING))
        return result

    def checked_store(self, ptrs, value, mask, *rest):  # type: ignore[no-untyped-def]
        State.memory.touch("store", *touched(ptrs, mask))
        return store(self, ptrs, value, mask, *rest)

    def checked_add(self, operation, ptr, val, mask, *rest):  # type: ignore[no-untyped-def]
        State.memory.touch("atomic", *touched(ptr, mask))
        return add(self, operation, ptr, val, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store
    builder.create_atomic_rmw = checked_add


def touched(pointers: Any, mask: Any) -> tuple[Addresses, int]:
    """Addresses where the mask holds, and bytes of a number there."""
    shape = np.broadcast_shapes(pointers.data.shape, mask.data.shape)
    addresses = np.broadcast_to(pointers.data, shape)[np.broadcast_to(mask.data, shape)]
    element = pointers.get_element_ty()
    return addresses.astype(np.uint64).ravel(), max(element.primitive_bitwidth // 8, 1)


def check_numbers(builder: Any) -> None:
    """Convert what an integer does not hold to an arbitrary one, and refuse int32 overflows."""
    cast, binary = builder.cast_impl, builder.binary_op

    def checked_cast(self, src, dst_type):  # type: ignore[no-untyped-def]
        result = cast(self, src, dst_type)
        # NumPy has no bfloat16, whose bits are an integer.
        if np.issubdtype(src.data.dtype, np.floating) and dst_type.scalar.is_int():
            limits = np.iinfo(result.data.dtype)
            value = src.data.astype(np.float64)
            fits = (value > float(limits.min) - 1) & (value < float(limits.max) + 1)
            result.data = np.where(fits, result.data, result.data.dtype.type(ANYTHING))
        return result

    def checked_binary(self, lhs, rhs, op):  # type: ignore[no-untyped-def]
        result = binary(self, lhs, rhs, op)
        if op in (np.add, np.subtract, np.multiply) and result.data.dtype == np.int32:
            exact = op(lhs.data.astype(np.int64), rhs.data.astype(np.int64))
            if (exact != result.data).any():
                raise Hostile(f"int32 arithmetic overflows to {exact[exact != result.data][:1]}")
        return result

    builder.cast_impl, builder.binary_op = checked_cast, checked_binary


def shuffle_programs(builder: Any) -> None:
    """Each axis of the grid backwards: the last program is the first to run."""
    set_index = builder.set_grid_idx

    def shuffled_index(self, x, y, z):  # type: ignore[no-untyped-def]
        wide, high, deep = self.grid_dim
        set_index(self, wide - 1 - x, high - 1 - y, deep - 1 - z)

    builder.set_grid_idx = shuffled_index


def check_launches(executor: Any) -> None:
    """Give each launch the memory of its tensors, and look for races at its end."""
    call = executor.__call__

    def checked_call(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        before, State.memory = State.memory, Memory(tensors)
        try:
            call(self, *args, **kwargs)
            State.memory.check_races()
        finally:
            State.memory = before

    executor.__call__ = checked_call


def dirty(allocate: Any) -> Any:
    """`allocate` with what may be found in memory; but what is huge stays untouched."""

    def allocate_and_fill(*args: Any, **options: Any) -> torch.Tensor:
        tensor = allocate(*args, **options)
        # A fake tensor may be of unknown size.
        if type(tensor) is torch.Tensor and not tensor.is_meta and tensor.numel() < 1 << 24:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 1)
        return tensor

    return allocate_and_fill
