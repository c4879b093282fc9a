"""Convolutions with their normalisation, activation and addition in one pass over the map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.engine.inference.prepared import Prepared, runs_prepared, state_of
from detectron2.engine.training_norms import KeptFrozenBatchNorm2d
from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.ops import winograd_conv
from detectron2.ops.winograd_conv import transform_weight

__all__ = ["FusedConv2d", "can_be_fused"]

# Padding, stride, dilation and groups of a convolution.
Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]

_FOLDABLE_NORMS = (
    FrozenBatchNorm2d,
    KeptFrozenBatchNorm2d,
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    NaiveSyncBatchNorm,
)
_RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)

# Winograd's algorithm moves more memory than it saves arithmetic where there are few channels:
# on 2 cores 64 channels take 20 instead of 19 ms, 128 15 instead of 17, 256 144 instead of 299.
_WINOGRAD_CHANNELS = 96

# And where a map is small, four times the weight is read for little: of 128 to 512 channels 3x4
# cells take 1.5 to 3.4 times as long as directly, 6x8 1.2 to 1.7, 12x16 0.7 to 0.8.
_WINOGRAD_CELLS = 128


# oneDNN reorders a weight in each call, which for few cells takes longer than the convolution: 256
# channels, 3x3, on 3x4 cells 1.06 of 1.24 ms, 1x1 on 6x8 0.06 of 0.12. From here on below 4 %.
_PACKED_CELLS = 1024

# What a layer may keep for that, so that heads on the five levels of a pyramid find theirs again.
# Large weights are kept for two shapes: landscape and portrait.
_PACKED_SHAPES = 6
_PACKED_BYTES = 8_000_000


@dataclass
class FoldedConv:
    """Weights of a convolution that contain its batch normalisation.

    Attributes:
        weight: (K, C / groups, h, w) in channels-last memory.
        bias: (K,).
        runs_in_onednn: whether PyTorch's fused CPU kernels take it.
        suits_winograd: whether `winograd_conv` is faster on maps that are not small.
        packed: the shapes of input seen last, the last one first, and the weight in the order that
            oneDNN chooses for each; None after the first call with a shape. In another order than
            that of their shape, calls were up to seven times slower than without any.
    """

    weight: Tensor
    bias: Tensor
    runs_in_onednn: bool
    suits_winograd: bool
    packed: tuple[tuple[torch.Size, Tensor | None], ...] = ()

    @cached_property
    def winograd(self) -> Tensor:
        """`weight` for `winograd_conv`."""
        return transform_weight(self.weight)

    def algorithm(self, cells: int) -> str:
        """What computes an output of so many cells fastest: "winograd", "fused" with what
        follows the convolution, or "direct"."""
        if self.suits_winograd and cells >= _WINOGRAD_CELLS:
            return "winograd"
        # Small outputs too, where a fused call takes 60 microseconds more: PyTorch's own call sums
        # an image in a batch otherwise than alone, and masks differ by a pixel.
        return "fused" if self.runs_in_onednn else "direct"

    def weight_for(self, shape: torch.Size, window: Window) -> Tensor:
        """`weight` for an input of `shape` with few cells: packed from the second one on."""
        known = dict(self.packed)
        if shape not in known:
            return self._keep(shape, None)
        packed = known[shape]
        if packed is not None:
            return packed
        pack = torch.ops.mkldnn._reorder_convolution_weight.default
        return self._keep(shape, pack(self.weight, *window, list(shape)))

    def _keep(self, shape: torch.Size, packed: Tensor | None) -> Tensor:
        # Threads may come here at once: each replaces the whole, and none waits.
        others = (entry for entry in self.packed if entry[0] != shape)
        limit = min(_PACKED_SHAPES, max(2, _PACKED_BYTES // self.weight.nbytes))
        self.packed = ((shape, packed), *others)[:limit]
        return self.weight if packed is None else packed


def can_be_fused(conv: nn.Module) -> bool:
    """Whether `conv` is a plain `Conv2d` of this package or of PyTorch, zero-padded."""
    is_plain = type(conv) in (Conv2d, nn.Conv2d)
    return is_plain and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


class FusedConv2d(Prepared, Conv2d):
    """A `Conv2d` whose batch normalisation is folded in, and ReLU and a sum fused behind it.

    The class of a `Conv2d` (or `nn.Conv2d`) is changed to this one; see `Prepared`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not runs_prepared(self):
            return self._forward_plainly(x)
        activation = getattr(self, "activation", None)
        if not self.folds_everything():
            assert self.norm is not None
            return _apply(activation, self.norm(self.run(x)))
        if _is_relu(activation):
            return self.run(x, relu=True)
        return _apply(activation, self.run(x))

    def _forward_plainly(self, x: Tensor) -> Tensor:
        # The class may have been nn.Conv2d, which has neither attribute.
        x = F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        norm = getattr(self, "norm", None)
        return _apply(getattr(self, "activation", None), x if norm is None else norm(x))

    def folds_everything(self) -> bool:
        """Whether `run` computes all but the activation, that is, no norm is left over."""
        return getattr(self, "norm", None) is None or self._norm_folds()

    def run(
        self, x: Tensor, *, relu: bool = False, add: Tensor | None = None, overwrite: bool = False
    ) -> Tensor:
        """Convolution (with folded norm), then ``+ add``, then ReLU.

        Args:
            x: (N, C, H, W), converted to the dtype of the computation.
            add: of the output's shape.
            overwrite: nobody needs `add` afterwards, so the output may be written over it.

        Returns:
            (N, K, H', W') in channels-last memory.
        """
        folded: FoldedConv = self.prepared()
        x = x.to(folded.weight.dtype)
        cells = self._output_cells(x)
        algorithm = folded.algorithm(cells)
        if algorithm == "fused":
            window: Any = (self.padding, self.stride, self.dilation, self.groups)
            few = cells < _PACKED_CELLS
            weight = folded.weight_for(x.shape, window) if few else folded.weight
            arguments = (weight, folded.bias, *window)
            return _run_fused(x, arguments, relu, add, overwrite)
        if algorithm == "winograd":
            out = winograd_conv(x, folded.winograd, folded.bias, relu and add is None)
            relu = relu and add is not None
        else:
            x = x.contiguous(memory_format=torch.channels_last)
            out = F.conv2d(
                x, folded.weight, folded.bias, self.stride, self.padding, self.dilation, self.groups
            )
        if add is not None:
            out = out.add_(add)
        return F.relu_(out) if relu else out

    def _output_cells(self, x: Tensor) -> int:
        """N * H' * W' of the output for `x` (N, C, H, W), but for the border."""
        images, _, height, width = x.shape
        return images * (height // self.stride[0]) * (width // self.stride[1])

    def _norm_folds(self) -> bool:
        norm: Any = self.norm
        return type(norm) in _FOLDABLE_NORMS and norm.running_mean is not None

    def weights_state(self) -> Any:
        # Asked for at every call: looking attributes of a module up takes longer than its tables.
        tensors: list[Tensor | None] = [*self._parameters.values()]
        norm = self._modules.get("norm")
        if norm is not None and type(norm) in _FOLDABLE_NORMS:
            tensors += norm._parameters.values()
            tensors += norm._buffers.values()
        return self.compute_dtype, state_of(*tensors)

    @torch.no_grad()
    def prepare(self) -> FoldedConv:
        weight, bias = self._fold()
        weight, bias = weight.to(self.compute_dtype), bias.to(self.compute_dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return FoldedConv(weight, bias, _onednn_runs(weight), self._suits_winograd())

    def _fold(self) -> tuple[Tensor, Tensor]:
        """Weight and bias with the normalisation in them: y = (conv(x) - mean) * scale + shift."""
        weight = self.weight.detach().float()
        bias = weight.new_zeros(self.out_channels) if self.bias is None else self.bias.float()
        norm = getattr(self, "norm", None)
        if norm is None or not self._norm_folds():
            return weight, bias.detach()
        scale = torch.rsqrt(norm.running_var.float() + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight.float()
        shift = 0.0 if norm.bias is None else norm.bias.float()
        bias = (bias - norm.running_mean.float()) * scale + shift
        return weight * scale.view(-1, 1, 1, 1), bias.detach()

    def _suits_winograd(self) -> bool:
        window = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        return (
            self.weight.device.type == "cpu"
            and self.compute_dtype == torch.float32
            and window == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
            and min(self.in_channels, self.out_channels) >= _WINOGRAD_CHANNELS
        )


def _run_fused(
    x: Tensor, arguments: tuple[Any, ...], relu: bool, add: Tensor | None, overwrite: bool
) -> Tensor:
    """`FusedConv2d.run` by oneDNN; `arguments` are weight, bias, padding, stride and so on."""
    x = x.contiguous(memory_format=torch.channels_last)
    # Chosen among its overloads here, which PyTorch needs 20 microseconds for.
    convolution = torch.ops.mkldnn._convolution_pointwise
    if add is None:
        return convolution.default(x, *arguments, "relu" if relu else "none", [], "")
    add = add.to(x.dtype).contiguous(memory_format=torch.channels_last)
    then: tuple[Any, ...] = ("add", 1.0, "relu" if relu else None, [], "")
    if overwrite:
        # One map less is read and written: 107 instead of 71 GFLOP/s for 64 to 256 channels.
        in_place = torch.ops.mkldnn._convolution_pointwise_.binary
        return in_place(add, x, *arguments, *then)
    return convolution.binary(x, add, *arguments, *then)


def _onednn_runs(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    is_half = weight.dtype == torch.bfloat16
    return weight.dtype == torch.float32 or (
        is_half and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _is_relu(activation: Any) -> bool:
    return isinstance(activation, nn.ReLU) or activation in _RELU_FUNCTIONS


def _apply(activation: Any, x: Tensor) -> Tensor:
    return x if activation is None else activation(x)
