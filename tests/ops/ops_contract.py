"""What every op promises: each implementation gives the reference's values and gradients."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from detectron2.ops import dispatch


@dataclass(frozen=True)
class Kernel:
    """An implementation and the device type of the tensors it takes."""

    implementation: str
    device: str

    @property
    def is_interpreted(self) -> bool:
        return self.implementation == "triton" and self.device == "cpu"

    @property
    def is_hurried(self) -> bool:
        """Whether the dearest cases are left out; DETECTRON2_TEST_ALL_CASES=1 runs them all."""
        return self.is_interpreted and os.environ.get("DETECTRON2_TEST_ALL_CASES") != "1"

    def active(self):
        return dispatch.use_implementation(self.implementation)


def kernel_under_test() -> Kernel:
    if os.environ.get("DETECTRON2_TEST_KERNELS") != "triton":
        return Kernel("numba", "cpu")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return Kernel("triton", "cpu" if interpreted else "cuda")


KERNEL = kernel_under_test()

# rtol and atol of results whose order of summation may differ from the reference's.
TOLERANCE = {
    torch.float64: (1e-9, 1e-11),
    torch.float32: (1e-4, 2e-5),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.6e-2, 1.6e-2),
}


def assert_close(actual: Tensor, expected: Tensor, what: str = "result", slack: float = 1) -> None:
    """Same shape and dtype, values within the tolerance of the dtype, the absolute one `slack`
    times as large."""
    assert actual.dtype == expected.dtype, f"{what} is {actual.dtype}, not {expected.dtype}"
    rtol, atol = TOLERANCE.get(actual.dtype, (0, 0))
    torch.testing.assert_close(
        actual,
        expected,
        rtol=rtol,
        atol=atol * slack,
        equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )


def generator(*key: object) -> torch.Generator:
    """Random numbers that depend on the key alone."""
    return torch.Generator().manual_seed(sum(map(ord, repr(key))))


def random_boxes(count: int, extent: float = 100.0, device: str = "cpu", seed: int = 0) -> Tensor:
    """(N, 4) float32 boxes that reach over the borders of a square of side `extent`."""
    random = generator("boxes", count, seed)
    corner = (torch.rand(count, 2, generator=random) * 1.2 - 0.2) * extent
    size = torch.rand(count, 2, generator=random) ** 2 * extent * 0.6
    return torch.cat([corner, corner + size], dim=1).to(device)


def random_rotated_boxes(
    count: int, extent: float = 100.0, device: str = "cpu", seed: int = 0
) -> Tensor:
    """(N, 5) float32 rotated boxes around a square of side `extent`."""
    random = generator("rotated", count, seed)
    center = (torch.rand(count, 2, generator=random) * 1.2 - 0.1) * extent
    size = torch.rand(count, 2, generator=random) * extent * 0.5
    angle = torch.rand(count, 1, generator=random) * 720 - 360
    return torch.cat([center, size, angle], dim=1).to(device)


def with_images(boxes: Tensor, images: int, seed: int = 0) -> Tensor:
    """Rows of an image index and a box."""
    index = torch.randint(images, (len(boxes), 1), generator=generator("images", seed))
    return torch.cat([index.to(boxes), boxes], dim=1)


def laid_out(tensor: Tensor, memory: str) -> Tensor:
    """The same values in another memory layout."""
    if memory == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if memory == "strided":
        room = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1] + 1)
        view = room[..., 1::2]
        view.copy_(tensor)
        assert tensor.numel() < 2 or not view.is_contiguous()
        return view
    return tensor.contiguous()


def check_against_reference(op, kernel, *args, leaves: tuple[str, ...] = (), slack: float = 1):
    """Compare the kernel with the reference: the output, and the gradient of every leaf.

    Args:
        op: takes `args`; those among them that require gradients are the leaves.
        leaves: their names, in order.
        slack: for sums of many numbers; see :func:`assert_close`.
    """
    inputs = [tensor for arg in args for tensor in (arg if isinstance(arg, list) else [arg])]
    inputs = [tensor for tensor in inputs if isinstance(tensor, Tensor) and tensor.requires_grad]
    assert len(inputs) == len(leaves)
    with dispatch.use_implementation("reference"):
        expected = op(*args)
    with kernel.active():
        actual = op(*args)
        assert_close(actual, expected, slack=slack)
        if not leaves:
            return actual
        weights = torch.randn(expected.shape, generator=generator("weights")).to(expected)
        of_kernel = torch.autograd.grad(actual, inputs, weights, allow_unused=True)
    of_reference = torch.autograd.grad(expected, inputs, weights, allow_unused=True)
    for name, mine, theirs, leaf in zip(leaves, of_kernel, of_reference, inputs, strict=True):
        theirs = torch.zeros_like(leaf) if theirs is None else theirs
        mine = torch.zeros_like(leaf) if mine is None else mine
        assert_close(mine, theirs, f"gradient of {name}", slack)
    return actual
