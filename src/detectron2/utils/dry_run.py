"""Counting the multiply-adds of a model without computing them.

A dry run replaces the output of every convolution, matrix product and attention by noise of the
right shape. Everything else runs as usual, so data-dependent steps (choosing proposals, suppressing
boxes) do their work, and a large detector is counted in seconds on a laptop.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

__all__ = ["count_flops"]

# Bilinear samples of a deformable convolution are weighted sums of four cells.
_CELLS_PER_SAMPLE = 4


def count_flops(model: nn.Module, inputs: Any) -> dict[str, float]:
    """Multiply-adds of one inference by direct child of the model, such as ``{"backbone": 1e11}``.

    Convolutions, matrix products, attention and deformable convolutions are counted. What the
    model finds in noise is about what it finds in a crowded image: as many proposals and
    detections as its settings allow.

    Args:
        model: runs in evaluation mode and gets its mode back.
        inputs: what the model is called with, usually a list with one dictionary.
    """
    counter = _DryRun()
    was_training = model.training
    model.eval()
    try:
        with ExitStack() as stack:
            for name, child in model.named_children():
                stack.enter_context(counter.during(child, name))
            stack.enter_context(torch.no_grad())
            stack.enter_context(counter)
            model(inputs)
    finally:
        model.train(was_training)
    return dict(counter.flops)


class _DryRun(TorchDispatchMode):
    """Sees every op of PyTorch; counts and skips the expensive ones."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: dict[str, float] = defaultdict(float)
        self._part = ""
        self._noise = torch.empty(0)

    @contextmanager
    def during(self, module: nn.Module, name: str) -> Iterator[None]:
        """Count what runs inside of `module` under `name`."""
        outer: list[str] = []

        def enter(*_: Any) -> None:
            outer.append(self._part)
            self._part = name

        def leave(*_: Any) -> None:
            self._part = outer.pop()

        handles = [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func._schema.name) or flop_registry.get(func._overloadpacket)
        if formula is None:
            return func(*args, **kwargs)
        shapes = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        output = func(*shapes[0], **shapes[1])
        flops = formula(*args, **kwargs, out_val=output)
        # The formulas of PyTorch count a multiply-add as two.
        self.flops[self._part] += flops / 2
        return tree_map_only(Tensor, lambda t: self._noise_like(t, args[0].device), output)

    def _noise_like(self, meta: Tensor, device: torch.device) -> Tensor:
        if not meta.is_floating_point():
            return torch.zeros(meta.shape, dtype=meta.dtype, device=device)
        count = meta.numel()
        if count > len(self._noise):
            generator = torch.Generator().manual_seed(0)
            self._noise = torch.randn(count, generator=generator)
        return self._noise[:count].to(device, meta.dtype, copy=True).view(meta.shape)


def _deformable_convolution(
    input: Tensor, offset: Tensor, weight: Tensor, *args: Any, out_val: Tensor
) -> float:
    _, channels_per_group, kernel_height, kernel_width = weight.shape
    images, channels = input.shape[:2]
    places = math.prod(out_val.shape[2:]) * kernel_height * kernel_width
    convolution = images * out_val.shape[1] * channels_per_group * places
    return 2.0 * (convolution + images * channels * places * _CELLS_PER_SAMPLE)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, *args: Any, out_val: Any, **_: Any
) -> float:
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return 2.0 * pairs * (query.shape[-1] + value.shape[-1])


_FORMULAS: dict[str, Callable[..., float]] = {
    "detectron2::deform_conv": _deformable_convolution,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
}
"""Beside those of PyTorch; two per multiply-add, as there."""
