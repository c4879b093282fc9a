"""Training that knows that the exported model computes in 8-bit integers.

Layers that `detectron2 export --int8` turns into integers round their weights and inputs to what
8 bits can hold, in training and in evaluation; gradients pass through the rounding. Names and
shapes in checkpoints stay those of the float model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.layers import Conv2d

__all__ = ["LearntRanges", "learnt_ranges", "round_to_integers"]

logger = logging.getLogger(__name__)

_MOST = 127  # of a signed 8-bit number; -128 is left out, so that zero is in the middle
_AVERAGING = 0.01  # share of a new batch in the range of an input


class _Rounding(nn.Module):
    """What the layers below have in common; `axis` of the weight is that of its outputs."""

    axis = 0

    def watch(self) -> None:
        """Give a layer the range of its inputs, which is unknown at first."""
        device: Any = self.weight.device
        for name, value in (
            ("input_low", float("inf")),
            ("input_high", -float("inf")),
            ("input_scale", 1.0),
        ):
            self.register_buffer(name, torch.tensor([value], device=device), persistent=False)
        zero = torch.zeros(1, dtype=torch.int32, device=device)
        self.register_buffer("input_zero", zero, persistent=False)
        self.register_buffer("one", torch.ones(1, dtype=torch.int64, device=device), False)

    def set_range(self: Any, lowest: float, highest: float) -> None:
        """Let inputs be rounded to 256 steps of this range."""
        from detectron2.export.learnt_ranges import scale_and_zero_point

        scale, zero = scale_and_zero_point(lowest, highest)
        self.input_low.fill_(lowest)
        self.input_high.fill_(highest)
        self.input_scale.fill_(scale)
        self.input_zero.fill_(zero)

    def rounded_input(self: Any, x: Tensor) -> Tensor:
        """The input in 256 steps of its range, a moving average over training batches."""
        if x.numel() == 0 or not (self.training or torch.isfinite(self.input_low).all()):
            return x
        rounded = torch.fused_moving_avg_obs_fake_quant(
            x.float(),
            self.one * int(self.training),
            self.one,
            self.input_low,
            self.input_high,
            self.input_scale,
            self.input_zero,
            _AVERAGING,
            quant_min=0,
            quant_max=255,
            ch_axis=0,
            per_row_fake_quant=False,
            symmetric_quant=False,
        )
        return rounded.to(x.dtype)

    def rounded_weight(self, weight: Tensor) -> Tensor:
        """The weight in 255 steps for each output channel."""
        others = [axis for axis in range(weight.dim()) if axis != self.axis]
        scale = weight.detach().float().abs().amax(dim=others).clamp(min=1e-12) / _MOST
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(
            weight.float(), scale, zeros, self.axis, -_MOST, _MOST
        )
        return rounded.to(weight.dtype)


class _RoundedConv2d(_Rounding, Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, w = self.rounded_input(input), self.rounded_weight(weight)
        return super()._conv_forward(x, w, bias)


class _RoundedPlainConv2d(_Rounding, nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, w = self.rounded_input(input), self.rounded_weight(weight)
        return super()._conv_forward(x, w, bias)


class _RoundedLinear(_Rounding, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        x, w = self.rounded_input(input), self.rounded_weight(self.weight)
        return nn.functional.linear(x, w, self.bias)


# The layers that every exporter knows as integers; others, as transposed convolutions, are few.
_ROUNDED: dict[type[nn.Module], type[_Rounding]] = {
    Conv2d: _RoundedConv2d,
    nn.Conv2d: _RoundedPlainConv2d,
    nn.Linear: _RoundedLinear,
}


def round_to_integers(model: nn.Module) -> int:
    """Let layers that become integers when `model` is exported compute as if they were, in place.

    Returns:
        How many there are.

    Raises:
        ValueError: the model has none.
    """
    from detectron2.export.calibration import stays_float

    count = 0
    for name, module in model.named_modules():
        rounded = _ROUNDED.get(type(module))
        if rounded is not None and not stays_float(name.replace(".", "/")):
            module.__class__ = rounded
            module.watch()  # type: ignore[operator]
            count += 1
    if count == 0:
        raise ValueError(
            f"TRAINING.QUANTIZATION is enabled, but {type(model).__name__} has no layers that an "
            "export turns into integers; disable it."
        )
    logger.info("%d layers round to 8 bits while they train.", count)
    return count


class LearntRanges:
    """Ranges of the inputs of rounded layers, which checkpoints hold beside the weights.

    An export with 8-bit integers uses them, and a training that goes on begins with them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Tensor]:
        """(2,) float32 lowest and highest input by the path of the layer."""
        return {
            name: torch.cat([layer.input_low, layer.input_high]).cpu()
            for name, layer in self._layers()
            if torch.isfinite(layer.input_low).all()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the ranges of the layers that are in `state`."""
        for name, layer in self._layers():
            if name in state:
                layer.set_range(*state[name].tolist())

    def _layers(self) -> Iterator[tuple[str, Any]]:
        for name, module in self.model.named_modules():
            if isinstance(module, _Rounding):
                yield name.removeprefix("module."), module  # of DistributedDataParallel


def learnt_ranges(model: nn.Module) -> dict[str, Any]:
    """What a checkpointer saves besides, by name; nothing if no layer rounds."""
    ranges = LearntRanges(model)
    return {"integer_ranges": ranges} if any(True for _ in ranges._layers()) else {}
