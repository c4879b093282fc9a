"""Triton's interpreter, less forgiving: what a GPU is free to do wrong becomes an error or a value.

- A load, store or atomic outside of every tensor of the launch is an error.
- Two programs of a launch that meet at an address, one of them storing, are a race, and so is a
  program that reads what it stored: its threads do not wait for one another. Atomics may meet.
- Programs run in another order than that of their numbers.
- A number that does not fit an integer type, such as NaN, is converted to an arbitrary one; so is
  what a load leaves out without an `other`.
- Int32 arithmetic that overflows is an error; bit operations and comparisons are not looked at.
"""

from typing import Any

import numpy as np
import torch

__all__ = ["Hostile", "install"]


class Hostile(AssertionError):
    """What a kernel did that a GPU does not allow."""


MANY = -1  # programs
ANYTHING = 77  # what is found where nothing is known


class Memory:
    """The tensors of a launch, and which program touched each of their bytes' elements."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        ranges = {}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage.nbytes():
                ranges[storage.data_ptr()] = storage.nbytes()
        self.starts = np.array(sorted(ranges), np.uint64)
        self.sizes = np.array([ranges[start] for start in sorted(ranges)], np.uint64)
        self.readers: dict[int, int] = {}
        self.writers: dict[int, int] = {}
        self.added: set[int] = set()

    def check_bounds(self, addresses: np.ndarray[Any, Any], width: int, what: str) -> None:
        if not len(addresses):
            return
        if not len(self.starts):
            raise Hostile(f"{what} of {len(addresses)} numbers where there are no tensors")
        place = np.searchsorted(self.starts, addresses, side="right").astype(np.int64) - 1
        wrong = place < 0
        place = np.maximum(place, 0)
        wrong |= addresses + np.uint64(width) > self.starts[place] + self.sizes[place]
        if wrong.any():
            raise Hostile(f"{what} of {wrong.sum()} numbers outside of every tensor")

    def read(self, addresses: list[int], program: int) -> None:
        for address in addresses:
            if address in self.writers or address in self.added:
                raise Hostile(f"program {program} reads what the launch writes")
            if self.readers.setdefault(address, program) != program:
                self.readers[address] = MANY

    def write(self, addresses: list[int], program: int) -> None:
        if len(set(addresses)) < len(addresses):
            raise Hostile(f"two lanes of program {program} store to one place")
        for address in addresses:
            if self.writers.setdefault(address, program) != program:
                raise Hostile(f"programs {program} and {self.writers[address]} store to one place")
            if address in self.added or self.readers.get(address, program) != program:
                raise Hostile(f"program {program} stores what another one reads")

    def add(self, addresses: list[int]) -> None:
        for address in addresses:
            if address in self.writers or address in self.readers:
                raise Hostile("a number that is added to atomically is also read or stored")
        self.added.update(addresses)


def install() -> None:
    """From now on every kernel of this process is interpreted in this way."""
    from triton.runtime import interpreter

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    state = {"memory": Memory([])}
    load, store = builder.create_masked_load, builder.create_masked_store
    add, cast, binary = builder.create_atomic_rmw, builder.cast_impl, builder.binary_op
    call, set_index = executor.__call__, builder.set_grid_idx

    def touched(pointers: Any, mask: Any) -> tuple[np.ndarray[Any, Any], int]:
        shape = np.broadcast_shapes(pointers.data.shape, mask.data.shape)
        addresses = np.broadcast_to(pointers.data, shape)[np.broadcast_to(mask.data, shape)]
        element = pointers.get_element_ty()
        return addresses.astype(np.uint64).ravel(), max(element.primitive_bitwidth // 8, 1)

    def program_of(self: Any) -> int:
        x, y, z = self.grid_idx
        return int((x * 65536 + y) * 65536 + z)

    def checked_load(self, ptrs, mask, other, *rest):  # type: ignore[no-untyped-def]
        addresses, width = touched(ptrs, mask)
        state["memory"].check_bounds(addresses, width, "a load")
        state["memory"].read(addresses.tolist(), program_of(self))
        result = load(self, ptrs, mask, other, *rest)
        if other is None:
            there = np.broadcast_to(mask.data, result.data.shape)
            result.data = np.where(there, result.data, result.data.dtype.type(ANYTHING))
        return result

    def checked_store(self, ptrs, value, mask, *rest):  # type: ignore[no-untyped-def]
        addresses, width = touched(ptrs, mask)
        state["memory"].check_bounds(addresses, width, "a store")
        state["memory"].write(addresses.tolist(), program_of(self))
        return store(self, ptrs, value, mask, *rest)

    def checked_add(self, operation, ptr, val, mask, *rest):  # type: ignore[no-untyped-def]
        addresses, width = touched(ptr, mask)
        state["memory"].check_bounds(addresses, width, "an atomic operation")
        state["memory"].add(addresses.tolist())
        return add(self, operation, ptr, val, mask, *rest)

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

    def checked_call(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        before, state["memory"] = state["memory"], Memory(tensors)
        try:
            return call(self, *args, **kwargs)
        finally:
            state["memory"] = before

    def shuffled_index(self, x, y, z):  # type: ignore[no-untyped-def]
        """Each axis backwards: the last program is the first to run."""
        wide, high, deep = self.grid_dim
        set_index(self, wide - 1 - x, high - 1 - y, deep - 1 - z)

    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store
    builder.create_atomic_rmw, builder.cast_impl = checked_add, checked_cast
    builder.binary_op, builder.set_grid_idx = checked_binary, shuffled_index
    executor.__call__ = checked_call
