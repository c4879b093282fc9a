import importlib
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from ops_contract import KERNEL, assert_close, check_against_reference, generator, laid_out

from detectron2.ops import deform_conv, dispatch


def random(*shape, dtype=torch.float32, scale=1.0):
    values = torch.randn(shape, generator=generator("deform", shape)) * scale
    return values.to(dtype).requires_grad_(True)


def case(images=2, channels=8, out=12, size=(13, 11), kernel=3, groups=1, offset_groups=1, **conv):
    """Input, offset, weight, bias and mask of a deformable convolution that fit each other."""
    stride, padding = conv.get("stride", 1), conv.get("padding", 0)
    reach = conv.get("dilation", 1) * (kernel - 1) + 1
    height, width = ((side + 2 * padding - reach) // stride + 1 for side in size)
    taps = offset_groups * kernel**2
    tensors = (
        random(images, channels, *size),
        random(images, 2 * taps, height, width, scale=2.0),
        random(out, channels // groups, kernel, kernel),
        random(out),
        random(images, taps, height, width).sigmoid(),
    )
    device = conv.get("device", "cpu")
    return tuple(tensor.detach().to(device).requires_grad_(True) for tensor in tensors)


def case_for(implementation, **setting):
    """:func:`case` on the device of an implementation; smaller where every operation takes long."""
    if implementation.is_interpreted:
        setting = {"size": (5, 4), "channels": 8, **setting}
    return case(device=implementation.device, **setting)


LEAVES = ("input", "offset", "weight", "bias", "mask")
SETTINGS = [
    {},
    {"padding": 1},
    {"padding": 2, "stride": 2, "dilation": 2, "groups": 2, "offset_groups": 4},
    {"padding": 1, "groups": 4, "offset_groups": 2},
    {"padding": 1, "groups": 2, "offset_groups": 8},
    {"kernel": 1, "groups": 4},
    {"channels": 48, "out": 7, "padding": 3, "kernel": 5, "size": (9, 40)},
    {"images": 0, "padding": 1},
]
# In Triton's interpreter a program takes 20 ms: more than one block of positions and of
# channels, and groups that do not divide one another, must do.
INTERPRETED = [
    {"padding": 1, "size": (5, 4)},
    {"kernel": 2, "stride": 2, "padding": 2, "dilation": 2, "groups": 2, "offset_groups": 4},
    {"kernel": 1, "groups": 4, "offset_groups": 2, "channels": 72, "out": 8},
    {"images": 0, "padding": 1},
]
SETTINGS = INTERPRETED if KERNEL.is_interpreted else SETTINGS


def settings_of_op(setting):
    names = ("stride", "padding", "dilation", "groups", "offset_groups")
    return {name: setting[name] for name in names if name in setting}


@pytest.mark.parametrize("implementation", ["numba", "reference"])
def test_without_displacement_it_is_a_convolution(implementation):
    features, offset, weight, bias, _ = case(padding=2, stride=2, dilation=2, groups=2)
    conv = {"padding": 2, "stride": 2, "dilation": 2, "groups": 2}
    with dispatch.use_implementation(implementation):
        actual = deform_conv(features, torch.zeros_like(offset), weight, bias, **conv)
    assert_close(actual, F.conv2d(features, weight, bias, **conv))


@pytest.mark.parametrize("implementation", ["numba", "reference"])
def test_convention_an_offset_is_vertical_then_horizontal(implementation):
    features = torch.arange(25.0).reshape(1, 1, 5, 5)
    offset = torch.zeros(1, 2, 5, 5)
    offset[:, 0], offset[:, 1] = 1, 0.5
    with dispatch.use_implementation(implementation):
        moved = deform_conv(features, offset, torch.ones(1, 1, 1, 1))
    assert moved[0, 0, 1, 1].item() == features[0, 0, 2, 1].item() + 0.5
    # Zeros outside: half of the last column is beyond the map, and all of the last row.
    assert moved[0, 0, 0, 4].item() == features[0, 0, 1, 4].item() / 2
    assert not moved[0, 0, 4].any()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_matches_reference(kernel, setting):
    features, offset, weight, bias, mask = case_for(kernel, **setting)
    op = partial(deform_conv, **settings_of_op(setting))
    check_against_reference(op, kernel, features, offset, weight, bias, mask, leaves=LEAVES)
    if kernel.is_interpreted and setting != SETTINGS[0]:
        return
    plain = (features, offset, weight)
    check_against_reference(op, kernel, *plain, leaves=LEAVES[:3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_matches_reference(kernel, dtype, memory):
    # Offsets in steps of a quarter: exact in every type, so all types read the same places.
    features, offset, weight, bias, mask = case_for(kernel, kernel=2, padding=1, images=1)
    tensors = [features, (offset * 4).round() / 4 + 0.125, weight * 0.1, bias, mask]
    tensors = [tensor.detach().to(dtype) for tensor in tensors]
    tensors[0] = laid_out(tensors[0], memory)
    leaves = [tensor.requires_grad_(True) for tensor in tensors]
    op = partial(deform_conv, padding=1)
    check_against_reference(op, kernel, *leaves, leaves=LEAVES)


def test_offsets_far_outside_read_zeros(kernel):
    features, offset, weight, bias, mask = case_for(kernel, kernel=2, padding=1)
    with torch.no_grad():
        offset[:, ::2] += 1e9
        offset[:, 1::3] = float("nan")
    op = partial(deform_conv, padding=1)
    check_against_reference(op, kernel, features, offset, weight, bias, mask, leaves=LEAVES)


def test_blocks_of_positions_join_seamlessly(kernel, monkeypatch):
    module = "gpu" if kernel.implementation == "triton" else "cpu"
    implementation = importlib.import_module(f"detectron2.ops.deform_conv.{module}")
    monkeypatch.setattr(implementation, "VALUES_AT_ONCE", 1700)  # of columns: a few positions
    size = (5, 9) if kernel.is_interpreted else (17, 19)
    tensors = case_for(kernel, size=size, kernel=2, padding=1, images=1)
    op = partial(deform_conv, padding=1)
    check_against_reference(op, kernel, *tensors, leaves=LEAVES)


def test_deterministic_algorithms_give_the_same_gradients(kernel):
    tensors = case_for(kernel, kernel=1)
    torch.use_deterministic_algorithms(True)
    try:
        check_against_reference(deform_conv, kernel, *tensors, leaves=LEAVES)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("implementation", ["numba", "reference"])
def test_gradient_is_right(implementation):
    tensors = case(images=1, channels=4, out=2, size=(4, 5), kernel=2, offset_groups=2)
    # Positions at least 0.1 from a cell, where the slope jumps.
    with torch.no_grad():
        tensors[1].copy_(tensors[1].floor() + 0.1 + 0.8 * (tensors[1] - tensors[1].floor()))
    leaves = [tensor.detach().double().requires_grad_(True) for tensor in tensors]
    with dispatch.use_implementation(implementation):
        assert torch.autograd.gradcheck(partial(deform_conv, offset_groups=2), leaves)


def test_convention_memory_format_of_the_input_is_kept(kernel):
    features, offset, weight, _, _ = case_for(kernel, kernel=1, padding=1)
    features = features.detach().contiguous(memory_format=torch.channels_last).requires_grad_(True)
    with kernel.active():
        output = deform_conv(features, offset, weight, padding=1)
        output.sum().backward()
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert features.grad.is_contiguous(memory_format=torch.channels_last)


def test_torch_op_is_registered_correctly(kernel):
    features, offset, weight, bias, mask = case_for(kernel, images=1, size=(4, 3), kernel=1)
    numbers = ([1, 1], [0, 0], [1, 1], 1, 1)
    op = torch.ops.detectron2.deform_conv
    grad = torch.randn(1, 12, 4, 3, device=kernel.device)
    tensors = [tensor.detach() for tensor in (features, offset, weight, mask)]
    with kernel.active():
        torch.library.opcheck(op, (features, offset, weight, bias, mask, *numbers))
        torch.library.opcheck(op, (features, offset, weight, None, None, *numbers))
        torch.library.opcheck(torch.ops.detectron2.deform_conv_backward, (grad, *tensors, *numbers))


def test_backward_reference_is_the_gradient_of_the_reference():
    tensors = case(padding=2, stride=2, dilation=2, groups=2, offset_groups=4)
    numbers = ([2, 2], [2, 2], [2, 2], 2, 4)
    with dispatch.use_implementation("reference"):
        conv = {"stride": 2, "padding": 2, "dilation": 2, "groups": 2, "offset_groups": 4}
        output = deform_conv(*tensors, **conv)
        grad = torch.randn(output.shape, generator=generator("grad"))
        leaves = [tensors[index] for index in (0, 1, 2, 4)]
        expected = torch.autograd.grad(output, leaves, grad)
        actual = torch.ops.detectron2.deform_conv_backward(
            grad, *(leaf.detach() for leaf in leaves), *numbers
        )
    for mine, theirs in zip(actual, expected, strict=True):
        assert_close(mine, theirs)


def test_a_second_gradient_of_the_kernel_is_refused():
    features, offset, weight, _, _ = case(padding=1)
    output = deform_conv(features, offset, weight, padding=1)
    (gradient,) = torch.autograd.grad((output**2).sum(), features, create_graph=True)
    with pytest.raises(NotImplementedError, match="deform_conv have no second gradient"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"offset": torch.zeros(2, 9, 11, 9)},
            r"offset has shape \(2, 9, 11, 9\); .* need \(2, 18",
        ),
        ({"mask": torch.zeros(2, 1, 11, 9)}, r"mask has shape \(2, 1, 11, 9\)"),
        ({"weight": torch.zeros(12, 7, 3, 3)}, r"weight has shape \(12, 7, 3, 3\) for 8 input"),
        ({"bias": torch.zeros(3)}, r"bias has shape \(3,\); expected \(12,\)"),
        ({"offset_groups": 3}, "8 input channels cannot be divided into 3 offset groups"),
        ({"dilation": 9}, r"does not fit into an input of \(13, 11\)"),
        ({"stride": 0}, "stride is 0; expected an integer of at least 1"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    features, offset, weight, bias, mask = case()
    arguments = {"offset": offset, "weight": weight, "bias": bias, "mask": mask, **change}
    with pytest.raises(ValueError, match=message):
        deform_conv(features, **arguments)


def test_autocast_does_not_round_what_the_tensors_hold(kernel):
    features, offset, weight, *_ = case_for(kernel, kernel=2, padding=1, images=1)
    with kernel.active():
        exact = deform_conv(features, offset, weight, padding=1)
        with torch.autocast(kernel.device, torch.bfloat16):
            output = deform_conv(features, offset, weight, padding=1)
    assert torch.equal(output, exact)


def test_no_mask_has_a_gradient_of_the_type_that_is_promised(kernel):
    features, offset, weight, *_ = case_for(kernel, kernel=2, padding=1, images=1)
    tensors = [tensor.detach().bfloat16() for tensor in (features, offset, weight)]
    grad = torch.ones_like(deform_conv(*tensors, padding=1))
    arguments = (grad, *tensors, None, [1, 1], [1, 1], [1, 1], 1, 1)
    with kernel.active():
        of_mask = torch.ops.detectron2.deform_conv_backward(*arguments)[3]
    assert (of_mask.dtype, of_mask.numel()) == (torch.bfloat16, 0)
