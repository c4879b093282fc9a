"""What `hostile_interpreter` finds in wrong kernels; runs with the interpreted contract."""

import hostile_interpreter  # noqa: F401  (installed by conftest)
import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def copy_past_the_end(source, target, count, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(target + lane, tl.load(source + lane), mask=lane < count)


@triton.jit
def store_past_the_end(source, target, count, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(target + lane, tl.load(source + lane, mask=lane < count, other=0.0))


@triton.jit
def store_to_one_place(source, target, count, BLOCK: tl.constexpr):
    tl.store(target, tl.load(source) + tl.program_id(0))


@triton.jit
def read_what_another_stores(source, target, count, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    tl.store(target + program, tl.load(target + 1 - program))


@triton.jit
def read_what_it_stored(source, target, count, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    tl.store(target + program, 1.0)
    tl.store(source + program, tl.load(target + program))


@triton.jit
def add_without_atomics_also(source, target, count, BLOCK: tl.constexpr):
    tl.atomic_add(target, 1.0)
    tl.store(source + tl.program_id(0), tl.load(target))


@triton.jit
def multiply_in_32_bits(source, target, count, BLOCK: tl.constexpr):
    far = (tl.program_id(0) + 70_000) * (count + 70_000)
    tl.store(target + tl.program_id(0), (far > 0).to(tl.float32))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (copy_past_the_end, "load of 3 numbers outside of every tensor"),
        (store_past_the_end, "store of 3 numbers outside of every tensor"),
        (store_to_one_place, "1 places are stored to more than once"),
        (read_what_another_stores, "2 places that are stored to are also used otherwise"),
        (read_what_it_stored, "2 places that are stored to are also used otherwise"),
        (add_without_atomics_also, "1 places that are added to are also used otherwise"),
        (multiply_in_32_bits, "int32 arithmetic overflows"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_gpu_does_not_allow_is_an_error(kernel, wrong, message):
    source, target = torch.zeros(5), torch.zeros(5)
    with pytest.raises(Exception, match=message):
        wrong[(2,)](source, target, 5, BLOCK=8)


@triton.jit
def convert(source, target, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(target + lane, tl.load(source + lane).to(tl.int32))


def test_a_number_that_is_no_integer_is_converted_to_anything(kernel):
    source, target = torch.tensor([-1.5, float("nan"), 3e9, 2.0]), torch.zeros(4, dtype=torch.int32)
    convert[(1,)](source, target, BLOCK=4)
    assert target.tolist() == [-1, 77, 77, 2]


@triton.jit
def note_who_came_first(target, order):
    tl.store(order + tl.program_id(0), tl.atomic_add(target, 1))


def test_the_last_program_is_the_first_to_run(kernel):
    target, order = torch.zeros(1, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)
    note_who_came_first[(3,)](target, order)
    assert order.tolist() == [2, 1, 0]


def test_memory_that_nobody_wrote_to_is_no_zero(kernel):
    whole = torch.empty(2, dtype=torch.int32)
    assert torch.empty(3).isnan().all() and torch.zeros(2).new_empty(1).isnan() and whole.all()
