"""How large a model is and how much it computes.

One flop is one fused multiply-add, as in the tables of most papers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from detectron2.layers._fvcore_nn import nn as fvcore_nn
from detectron2.utils._op_flops import OP_FLOPS

parameter_count = fvcore_nn.parameter_count
parameter_count_table = fvcore_nn.parameter_count_table

__all__ = [
    "FlopCountAnalysis",
    "activation_count_operators",
    "flop_count_operators",
    "parameter_count",
    "parameter_count_table",
]

# Arithmetic on single elements, copying and sorting: fvcore would report each of them as
# unsupported, though together they are well below a percent of a detector.
_UNCOUNTED = (
    "add add_ argmax argsort constant_pad_nd div div_ exp log2 max_pool2d meshgrid "
    "mul mul_ neg nonzero_numpy reciprocal repeat_interleave rsub sigmoid sigmoid_ softmax sort "
    "sqrt sub"
)


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor inside lists, dictionaries, Instances, Boxes and masks, in a fixed order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for key in value:
            yield from _tensors_in(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)
    elif hasattr(value, "get_fields"):
        yield from _tensors_in(value.get_fields())
    elif hasattr(value, "tensor"):
        yield from _tensors_in(value.tensor)


class _TensorsInTensorsOut(nn.Module):
    """A model as a function of tensors alone, which is what the JIT tracer can follow.

    Everything else in the inputs (sizes, file names) becomes a constant.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.model = model
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        self._leaves, self._layout = pytree.tree_flatten(arguments)
        self.tensors = tuple(leaf for leaf in self._leaves if isinstance(leaf, torch.Tensor))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves]
        outputs = self.model(*pytree.tree_unflatten(leaves, self._layout))
        return tuple(_tensors_in(outputs))


class FlopCountAnalysis(fvcore_nn.FlopCountAnalysis):
    """fvcore's analysis for models that take and return dictionaries, with our ops counted."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        """
        Args:
            model: any detection model; it is run as it is, so call ``model.eval()`` first.
            inputs: what the model is called with, usually a list of dictionaries. A tuple
                stands for several arguments.
        """
        wrapped = _TensorsInTensorsOut(model, inputs)
        super().__init__(wrapped, wrapped.tensors)
        self.set_op_handle(**{f"aten::{name}": None for name in _UNCOUNTED.split()})
        self.set_op_handle(**OP_FLOPS)


@contextmanager
def _inference_of(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def flop_count_operators(model: nn.Module, inputs: list[dict[str, Any]]) -> dict[str, float]:
    """Gigaflops of one inference by kind of operator, such as ``{"conv": 146.2}``.

    Operators inside a branch that these inputs do not take are not counted, and detectors
    compute more the more they find, so count over several real images.

    Args:
        model: a detection model; it runs in evaluation mode and gets its mode back.
        inputs: images as the model takes them.
    """
    with _inference_of(model):
        counts = FlopCountAnalysis(model, inputs).by_operator()
    return defaultdict(float, {name: flops / 1e9 for name, flops in counts.items()})


def activation_count_operators(
    model: nn.Module, inputs: list[dict[str, Any]], **kwargs: Any
) -> dict[str, float]:
    """Million output elements of the layers of one inference, by kind of operator.

    Args:
        model: a detection model; it runs in evaluation mode and gets its mode back.
        inputs: one image; only its ``"image"`` is used.
        **kwargs: for `fvcore.nn.activation_count`.

    Raises:
        ValueError: more or fewer than one image.
    """
    if len(inputs) != 1:
        raise ValueError(f"Activations are counted for one image, but {len(inputs)} were given.")
    with _inference_of(model):
        wrapped = _TensorsInTensorsOut(model, [{"image": inputs[0]["image"]}])
        counts, _ = fvcore_nn.activation_count(wrapped, wrapped.tensors, **kwargs)
    return counts


def find_unused_parameters(model: nn.Module, inputs: Any) -> list[str]:
    """Names of the parameters that get no gradient from the losses of these inputs.

    Args:
        model: a model in training mode, which returns a dictionary of losses.
        inputs: what the model is called with.

    Raises:
        ValueError: the model is in evaluation mode.
    """
    if not model.training:
        raise ValueError("The model is in evaluation mode and returns no losses; call train().")
    for parameter in model.parameters():
        parameter.grad = None
    losses = model(inputs)
    if isinstance(losses, Mapping):
        losses = sum(losses.values())
    losses.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    for parameter in model.parameters():
        parameter.grad = None
    return unused
