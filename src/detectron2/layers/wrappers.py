"""Thin additions to PyTorch's own layers and functions."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.utils._deferred import is_remote

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Linear",
    "cat",
    "check_if_dynamo_compiling",
    "cross_entropy",
    "disable_torch_compiler",
    "empty_input_loss_func_wrapper",
    "interpolate",
    "move_device_like",
    "nonzero_tuple",
    "shapes_to_tensor",
]

# PyTorch's own layers take empty batches; these names stay for code that imports them here.
BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear
interpolate = F.interpolate


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat` that hands a single tensor back without a copy.

    Raises:
        TypeError: `tensors` is not a list or a tuple.
    """
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"cat takes a list or tuple of tensors, not {type(tensors).__name__}.")
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def shapes_to_tensor(x: Sequence[Any], device: torch.device | str | None = None) -> Tensor:
    """A shape as an int64 tensor, whether its sides are integers or 0-d tensors."""
    if any(isinstance(side, Tensor) for side in x):
        sides = torch.stack([torch.as_tensor(side, device=device) for side in x])
        return sides if device is None else sides.to(device)
    return numbers_to_device(x, torch.int64, device)


def numbers_to_device(
    numbers: Sequence[Any], dtype: torch.dtype, device: torch.device | str | None
) -> Tensor:
    """A tensor of numbers that the host has; a GPU gets it without making the host wait."""
    device = torch.device("cpu" if device is None else device)
    # Only pinned memory is read by the device while the host goes on.
    host = torch.tensor(numbers, dtype=dtype, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


def move_device_like(src: Tensor, dst: Tensor) -> Tensor:
    """`src` on the device of `dst`; the host does not wait for a copy to a GPU."""
    to_gpu = src.device.type == "cpu" and is_remote(dst)
    return copy_to_device(src, dst.device) if to_gpu else src.to(dst.device)


def copy_to_device(source: Tensor, device: torch.device) -> Tensor:
    """A copy of a tensor of the host; the host does not wait for a GPU to have it."""
    # From other memory than pinned one a copy may begin, with the host waiting for it, when the GPU
    # has done all that it was asked for before. PyTorch keeps the pinned copy until it was read.
    if _reads_pinned_memory(device) and not source.requires_grad:
        source = source.pin_memory()
    return source.to(device, non_blocking=True)


def _reads_pinned_memory(device: torch.device) -> bool:
    return device.type == "cuda"


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """Coordinates of the non-zero elements, one int64 index tensor per dimension of `x`.

    A 0-d tensor counts as one with a single element.
    """
    return torch.atleast_1d(x).nonzero(as_tuple=True)


def empty_input_loss_func_wrapper(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make the mean of no losses 0, not NaN, and keep it attached to the graph.

    Distributed training needs every rank to take part in the backward pass, so the zero is
    computed from the (empty) input instead of being a constant.
    """

    # Not __module__: the result belongs to whoever wraps, and is public there.
    @functools.wraps(loss_func, assigned=("__name__", "__qualname__", "__doc__"))
    def loss_of_maybe_nothing(
        input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs: Any
    ) -> Tensor:
        if reduction == "mean" and target.numel() == 0:
            return 0.0 * input.sum()
        return loss_func(input, target, reduction=reduction, **kwargs)

    return loss_of_maybe_nothing


cross_entropy = empty_input_loss_func_wrapper(F.cross_entropy)


def check_if_dynamo_compiling() -> bool:
    """True while `torch.compile` (or `torch.export`) traces the caller."""
    return torch.compiler.is_compiling()


def disable_torch_compiler(func: Callable[..., Any]) -> Callable[..., Any]:
    """Keep `func` out of compiled graphs: it always runs eagerly."""
    return torch.compiler.disable(func)


class Conv2d(nn.Conv2d):
    """Convolution, then an optional normalisation, then an optional activation.

    Args:
        *args: those of `torch.nn.Conv2d`.
        norm: a module run on the output of the convolution.
        activation: a function run last.
        **kwargs: those of `torch.nn.Conv2d`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        norm = kwargs.pop("norm", None)
        activation = kwargs.pop("activation", None)
        super().__init__(*args, **kwargs)
        self.norm: nn.Module | None = norm
        self.activation: Callable[[Tensor], Tensor] | None = activation

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


class _NewEmptyTensorOp(torch.autograd.Function):
    """An empty tensor of another shape that stays in the graph of `x`.

    Older code calls it for operators that refuse empty batches.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, new_shape: Sequence[int]) -> Tensor:
        ctx.input_shape = x.shape
        return x.new_empty(new_shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.input_shape), None
