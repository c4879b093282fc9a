"""Runs of channels as single values of a kernel, which the processor keeps in its registers.

A sum over many cells that is written as a loop over an array of channels goes to memory and back
with each cell. A value of type :class:`Lanes` is a vector of LLVM: 32 numbers of float32 are two
registers with AVX-512, four with AVX2 and eight on ARM, chosen when the kernel is compiled.

Arrays of uint16 hold the bits of bfloat16, which NumPy does not know: lanes of them are float32.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = ["Lanes", "add_scaled", "no_lanes", "store_lanes"]

# A product and a sum may be fused, as in kernels that are compiled with `fused`.
FUSED = ("contract",)


class Lanes(types.Type):  # type: ignore[misc]  # Numba has no types
    """`count` numbers of one floating point type."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    """A vector in LLVM."""

    def __init__(self, manager: Any, lanes: Lanes) -> None:
        number = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(number, lanes.count))


def _pointer(context, builder, lanes, array_type, array, start):  # type: ignore[no-untyped-def]
    """Where a vector of numbers of a one-dimensional array begins, one for each of `lanes`."""
    data = context.make_array(array_type)(context, builder, array).data
    vector = ir.VectorType(context.get_value_type(array_type.dtype), lanes.count)
    return builder.bitcast(builder.gep(data, [start]), vector.as_pointer())


def _read(context, builder, lanes, array_type, array, start):  # type: ignore[no-untyped-def]
    """The numbers that begin at `start` in an array of them, or of their upper halves."""
    values = builder.load(_pointer(context, builder, lanes, array_type, array, start))
    values.align = array_type.dtype.bitwidth // 8
    if array_type.dtype != types.uint16:
        return values
    bits = ir.VectorType(ir.IntType(32), lanes.count)
    shifts = ir.Constant(bits, [16] * lanes.count)
    whole = builder.shl(builder.zext(values, bits), shifts)
    return builder.bitcast(whole, context.get_value_type(lanes))


def _no_lanes(typingctx, array, count):  # type: ignore[no-untyped-def]
    """`count` zeros, known when compiling, to add up values of an array. Only in kernels."""
    dtype = types.float32 if array.dtype == types.uint16 else array.dtype
    lanes = Lanes(dtype, count.literal_value)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return ir.Constant(context.get_value_type(lanes), None)

    return lanes(array, count), generate


def _add_scaled(typingctx, lanes, array, start, weight):  # type: ignore[no-untyped-def]
    """lanes + weight * array[start : start + count], unchecked. Only in kernels."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        total, values, first, factor = arguments
        vector = context.get_value_type(lanes)
        read = _read(context, builder, lanes, array, values, first)
        nothing, index = ir.Constant(vector, ir.Undefined), ir.IntType(32)
        one = builder.insert_element(nothing, factor, index(0))
        everywhere = ir.Constant(ir.VectorType(index, lanes.count), [0] * lanes.count)
        factors = builder.shuffle_vector(one, nothing, everywhere)
        return builder.fadd(total, builder.fmul(factors, read, flags=FUSED), flags=FUSED)

    return lanes(lanes, array, start, weight), generate


def _store_lanes(typingctx, lanes, array, start):  # type: ignore[no-untyped-def]
    """array[start : start + count] = lanes, unchecked. Only in kernels."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values, target, first = arguments
        written = builder.store(values, _pointer(context, builder, lanes, array, target, first))
        written.align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(lanes, array, start), generate


no_lanes: Any = intrinsic(prefer_literal=True)(_no_lanes)
add_scaled: Any = intrinsic(_add_scaled)
store_lanes: Any = intrinsic(_store_lanes)
